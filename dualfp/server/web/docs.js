"use strict";
const main = document.getElementById("main");

function element(name, text, ...children) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

// A schema in a few words: "number, 0 … 2, or null".
function describe(schema, root) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(each => describe(each, root)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(", ");
  const types = [schema.type || "any"].flat();
  if (types.join() === "null") return "null";
  let text = types.filter(type => type !== "null").join(" or ");
  if (schema.items) text += ` of ${describe(schema.items, root)}`;
  // Bounds that are merely those of 64 bits tell nobody anything.
  const [low, high] = [schema.minimum ?? schema.exclusiveMinimum, schema.maximum].map(
      bound => Number.isSafeInteger(bound) || !Number.isInteger(bound) ? bound : undefined);
  if (low !== undefined && high !== undefined) text += `, ${low} to ${high}`;
  else if (low !== undefined) text += `, at least ${low}`;
  else if (high !== undefined) text += `, at most ${high}`;
  return text + (types.includes("null") ? ", or null" : "");
}

function fields(schema, root) {
  const table = element("table");
  const at = schema.$ref ? root.components.schemas[schema.$ref.split("/").pop()] : schema;
  const required = at.required || [];
  for (const [name, value] of Object.entries(at.properties || {})) {
    const what = [describe(value, root), value.description].filter(Boolean).join(". ");
    table.append(element("tr", "", element("td", "", element("code", name)),
                         element("td", (required.includes(name) ? "Required. " : "") + what)));
  }
  for (const each of at.properties ? [] : at.anyOf || []) table.append(...fields(each, root).children);
  return table;
}

function show(root) {
  document.getElementById("version").textContent = `API, version ${root.info.version}`;
  main.replaceChildren(element("p", root.info.description));
  const groups = new Map();
  for (const [path, methods] of Object.entries(root.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const details = element("details", "", element(
          "summary", "", element("b", method.toUpperCase()), element("code", path),
          element("span", operation.summary)));
      const body = operation.requestBody?.content["application/json"].schema;
      if (body) details.append(element("p", "The request:"), fields(body, root));
      const answers = element("table");
      for (const [status, answer] of Object.entries(operation.responses)) {
        const response = answer.$ref ? root.components.responses[answer.$ref.split("/").pop()] : answer;
        answers.append(element("tr", "", element("td", "", element("code", status)),
                               element("td", response.description)));
      }
      details.append(element("p", "The answers:"), answers);
      const schema = operation.responses["200"].content?.["application/json"]?.schema;
      if (schema) details.append(fields(schema, root));
      const group = operation.tags[0];
      if (!groups.has(group)) groups.set(group, main.appendChild(element("section", "", element("h2", group))));
      groups.get(group).append(details);
    }
  }
}

fetch(location.pathname.replace(/\/docs$/, "") + "/openapi.json")
    .then(response => response.json()).then(show)
    .catch(error => main.replaceChildren(element("p", String(error))));
