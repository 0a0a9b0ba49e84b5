"""Switching from outside: the attribute on LLM, requests' pins, and GET and PUT /v1/precision."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from typing import Any

from dualfp.vllm import options

ROUTE = "/v1/precision"


class Switch:
    """`llm.quantization_method`: `.fp8 = True`, or `.set("auto")`. From the next step on."""

    def __init__(self, llm: Any):
        self._llm = llm

    def get(self) -> dict[str, Any]:
        return self._llm.collective_rpc("dualfp_scheduler_get")[0]

    def set(self, precision: str) -> dict[str, Any]:
        """exact (alias fp16), fp8, or auto: the engine's policy."""
        if precision != "auto":
            precision = options.precision_named(precision, "precision")
        return self._llm.collective_rpc("dualfp_scheduler_set", args=(precision,))[0]

    @property
    def is_dualfp_enabled(self) -> bool:
        return True

    @property
    def fp8(self) -> bool:
        return self.get()["precision"] == options.FP8

    @fp8.setter
    def fp8(self, on: bool) -> None:
        self.set(options.FP8 if on else options.EXACT)


def _quantization_method(self: Any) -> Switch:
    quantization = self.llm_engine.vllm_config.model_config.quantization
    if quantization != "dualfp":
        raise AttributeError(
            f"quantization_method: this LLM has quantization={quantization!r}, not 'dualfp'"
        )
    return Switch(self)


def install() -> None:
    _check_pins()
    # Where a program has imported LLM, it may ask for the attribute. Importing it here would cost
    # every worker process that import.
    module = sys.modules.get("vllm.entrypoints.llm")
    if module is not None and hasattr(module, "LLM"):
        if not hasattr(module.LLM, "quantization_method"):
            module.LLM.quantization_method = property(_quantization_method)


def _check_pins() -> None:
    """A precision that does not exist is refused where a request comes in."""
    from vllm.v1.engine.input_processor import InputProcessor

    original = InputProcessor.process_inputs
    where = list(inspect.signature(original).parameters).index("params")

    @functools.wraps(original)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = kwargs["params"] if "params" in kwargs else args[where - 1]
        pin = (getattr(params, "extra_args", None) or {}).get("precision")
        if pin not in (None, "auto") and self.vllm_config.model_config.quantization == "dualfp":
            options.precision_named(pin, "precision")
        return original(self, *args, **kwargs)

    InputProcessor.process_inputs = process_inputs


async def _answer(engine: Any, request: Any) -> tuple[int, dict[str, Any]]:
    from starlette.requests import ClientDisconnect

    if request.method == "GET":
        return 200, (await engine.collective_rpc("dualfp_scheduler_get"))[0]
    try:
        body = json.loads(await request.body())
        if not isinstance(body, dict) or set(body) != {"precision"}:
            raise ValueError('expected {"precision": "exact" | "fp8" | "auto"}')
        name = body["precision"]
        if name != "auto":
            name = options.precision_named(name, "precision")
    except (ValueError, ClientDisconnect) as error:
        message = f"precision: {error}"
        return 400, {"error": {"message": message, "type": "invalid_request_error", "code": 400}}
    return 200, (await engine.collective_rpc("dualfp_scheduler_set", args=(name,)))[0]


async def _endpoint(request: Any) -> Any:
    from starlette.responses import JSONResponse

    status, body = await _answer(request.app.state.engine_client, request)
    return JSONResponse(body, status_code=status)


def add_route(app: Any) -> None:
    if not any(getattr(route, "path", None) == ROUTE for route in app.router.routes):
        app.add_route(ROUTE, _endpoint, methods=["GET", "PUT"])


class AddRoute:
    """For servers without endpoint plugins (0.21): `vllm serve --middleware
    dualfp.vllm.control.AddRoute`. vLLM adds this outside its authentication, so it only adds the
    route, which authentication guards like all of /v1."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            add_route(scope["app"])
        await self._app(scope, receive, send)


class Endpoint:
    """The vllm.endpoint_plugins entry point (0.33), loaded where VLLM_PLUGINS names dualfp."""

    name = "dualfp"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        add_route(app)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        pass
