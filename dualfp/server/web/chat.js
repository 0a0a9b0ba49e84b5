// The chat. What was said is kept for this tab; what the model is sent fits its context.
const kStore = "dualfp-chat";
const kDefaults = {"max-tokens": 256, temperature: 0.7};

let messages = [];   // {role, content, meta}: what was said
let firstSent = 0;   // messages before this one are no longer sent: the context is full
let running = null;

// What a number field says, or its default where it says nothing of use.
function numberOf(id) {
  const {valueAsNumber: value, min, max} = $(id);
  if (!Number.isFinite(value)) return kDefaults[id];
  return Math.min(Math.max(value, Number(min)), max === "" ? Infinity : Number(max));
}

function addMessage(role, text) {
  document.querySelector(".empty")?.remove();
  const block = document.createElement("div");
  block.className = "message " + role;
  const body = document.createElement("div");
  body.textContent = text;
  block.append(body);
  $("log").append(block);
  $("log").scrollTop = $("log").scrollHeight;
  return block;
}

function addNote(block, className, text) {
  const note = document.createElement("div");
  note.className = className;
  note.textContent = text;
  block.append(note);
}

// {count, speed, first, by} of an answer, or null where it was stopped before its end.
function addMeta(block, meta) {
  const line = document.createElement("div");
  line.className = "meta";
  if (meta) {
    const speed = meta.speed ? `, ${compact(meta.speed)} tokens/s` : "";
    line.append(`${count(meta.count, "token")}${speed}, first after ${compact(meta.first)} ms`);
    const share = document.createElement("span");
    share.className = "share";
    for (const [name, tokens] of meta.by) {
      const part = document.createElement("i");
      part.className = name;
      part.style.width = tokens / meta.count * 100 + "%";
      share.append(part);
    }
    line.append(share, meta.by.map(([name, n]) => `${n} ${shown(name)}`).join(", "));
  } else {
    line.append("stopped");
  }
  block.append(line);
}

function save() {
  const settings = Object.fromEntries(
      ["kind", "pin", "temperature", "max-tokens"].map(id => [id, $(id).value]));
  try {
    sessionStorage.setItem(kStore, JSON.stringify({messages, firstSent, settings}));
  } catch {
    // More than the browser keeps: the conversation ends with the page.
  }
}

function restore() {
  let stored;
  try {
    stored = JSON.parse(sessionStorage.getItem(kStore));
  } catch {
    return;
  }
  if (!stored || !Array.isArray(stored.messages)) return;
  ({messages, firstSent} = stored);
  for (const [id, value] of Object.entries(stored.settings)) $(id).value = value;
  for (const {role, content, meta} of messages) {
    const block = addMessage(role, content);
    if (role === "assistant") addMeta(block, meta);
  }
}

const plain = list => list.map(({role, content}) => ({role, content}));

async function tokenCount(content) {
  const response = await api("/tokenize", {method: "POST", body: JSON.stringify(content),
                                           signal: running.signal});
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

// The part of a request that must share the context: what is sent, and how much may come. Says in
// `notes` what was left out.
async function fitContext(chat, text, notes) {
  const wanted = Math.max(1, Math.round(numberOf("max-tokens")));
  const before = firstSent;
  for (;;) {
    const content = chat ? {messages: plain(messages.slice(firstSent))} : {prompt: text};
    const {count: used, max_model_len: limit} = await tokenCount(content);
    // Half of a small context for the answer, if that much is asked for.
    const reserve = Math.min(wanted, Math.max(1, Math.floor(limit / 2)));
    if (used + reserve > limit && chat) {
      const next = messages.findIndex((m, i) => i > firstSent && m.role === "user");
      if (next > 0) {
        firstSent = next;
        continue;
      }
    }
    if (firstSent > before) {
      notes.push(`${count(firstSent - before, "earlier message")} left out: the context has ` +
                 `${count(limit, "token")}`);
    }
    if (used + reserve > limit) {
      notes.push(`the beginning of ${count(used, "token")} left out: the context has ` +
                 `${count(limit, "token")}`);
      return {...content, truncate_prompt_tokens: limit - reserve, max_tokens: reserve};
    }
    if (used + wanted > limit) notes.push(`the answer may have ${count(limit - used, "token")}`);
    return {...content, max_tokens: Math.min(wanted, limit - used)};
  }
}

async function ask(text) {
  const chat = $("kind").value === "chat";
  addMessage("user", text);
  messages.push({role: "user", content: text});
  const block = addMessage("assistant", "");
  running = new AbortController();
  $("send").textContent = "Stop";
  let started = performance.now();
  let first = null, answer = "", usage = null;
  const notes = [];
  try {
    const body = {
      ...await fitContext(chat, text, notes), stream: true, stream_options: {include_usage: true},
      temperature: numberOf("temperature"), precision: $("pin").value,
    };
    started = performance.now();
    const response = await api(chat ? "/v1/chat/completions" : "/v1/completions",
                               {method: "POST", body: JSON.stringify(body), signal: running.signal});
    if (!response.ok) throw new Error((await response.json()).error.message);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const {value, done} = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (event === "data: [DONE]") continue;
        const chunk = JSON.parse(event.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.usage) usage = chunk.usage;
        for (const choice of chunk.choices) {
          first ??= performance.now();
          answer += chat ? choice.delta.content || "" : choice.text;
        }
      }
      const atEnd = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 60;
      block.firstChild.textContent = answer;
      if (atEnd) $("log").scrollTop = $("log").scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") addNote(block, "failed", error.message);
  }
  for (const note of notes) addNote(block, "note", note);
  if (first !== null) {
    const seconds = (performance.now() - first) / 1000;
    const tokens = usage ? usage.completion_tokens : 0;
    const meta = usage && {
      count: tokens, first: first - started, speed: tokens > 1 ? (tokens - 1) / seconds : 0,
      by: Object.entries(usage.tokens_by_precision.completion),
    };
    messages.push({role: "assistant", content: answer, meta});
    addMeta(block, meta);
  } else {
    messages.pop();
  }
  save();
  $("log").scrollTop = $("log").scrollHeight;
  running = null;
  $("send").textContent = "Send";
}

$("form").addEventListener("submit", event => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const text = $("input").value;
  if (text.trim()) {
    $("input").value = "";
    ask(text);
  }
});
$("input").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) $("form").requestSubmit();
  }
});
$("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  firstSent = 0;
  $("log").replaceChildren();
  save();
});
document.querySelector(".controls").addEventListener("change", save);
restore();
