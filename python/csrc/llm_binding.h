/* The engine for python/dualfp/llm.py, which calls it by ctypes: options, requests and results are
 * JSON, since a call here is a request and not a step. Functions return a dualfp_status; strings
 * that they give are freed by dualfp_llm_free(). Any thread may call; none is held while another
 * waits. */

#ifndef DUALFP_PYTHON_LLM_BINDING_H_
#define DUALFP_PYTHON_LLM_BINDING_H_

#include <stdint.h>

#include "capi/dualfp.h"

#ifdef __cplusplus
extern "C" {
#endif

// NOLINTBEGIN(readability-identifier-naming): C's own style.

typedef struct dualfp_llm dualfp_llm;

const char* dualfp_llm_last_error(void);
void dualfp_llm_free(char* text);

/* Loads a model. `progress`, if not null, is called with bytes done and in all, on this thread. */
dualfp_status dualfp_llm_open(const char* options, void (*progress)(int64_t, int64_t),
                              dualfp_llm** llm);
/* Aborts what runs. No other call may be in flight. */
void dualfp_llm_close(dualfp_llm* llm);
dualfp_status dualfp_llm_info(dualfp_llm* llm, char** info);

/* Queues a request and names it. What it brings comes from dualfp_llm_next(), in order, until an
 * output has "finished"; then, or after dualfp_llm_cancel(), the id is forgotten. */
dualfp_status dualfp_llm_submit(dualfp_llm* llm, const char* request, uint64_t* id);
/* Waits up to `seconds` for the request's next output; null where there was none. */
dualfp_status dualfp_llm_next(dualfp_llm* llm, uint64_t id, double seconds, char** output);
dualfp_status dualfp_llm_cancel(dualfp_llm* llm, uint64_t id);

/* "exact", "fp8", "auto", or a JSON array of one of the first two for each layer. */
dualfp_status dualfp_llm_set_precision(dualfp_llm* llm, const char* precision);
dualfp_status dualfp_llm_get_precision(dualfp_llm* llm, char** precision);

/* {"text", "add_special_tokens"} to token ids; {"token_ids", "skip_special_tokens"} to text; a
 * ChatPrompt's members to text. */
dualfp_status dualfp_llm_encode(dualfp_llm* llm, const char* request, char** token_ids);
dualfp_status dualfp_llm_decode(dualfp_llm* llm, const char* request, char** text);
dualfp_status dualfp_llm_render_chat(dualfp_llm* llm, const char* request, char** text);

// NOLINTEND(readability-identifier-naming)

#ifdef __cplusplus
}
#endif

#endif  // DUALFP_PYTHON_LLM_BINDING_H_
