// The page's behaviour: the form, its link, and the request. What is drawn stands in figures.js, what follows from a table in facts.js.
import { cycles, inWords, letters, wins } from "./facts.js";
import { drawEmbeddings, drawGraph, drawRanking, drawTable } from "./figures.js";

const MOST = 8;
const find = (id) => document.getElementById(id);
const answers = find("answers");

function addAnswer(text = "") {
  const row = document.createElement("div");
  row.className = "answer";
  row.innerHTML = "<b aria-hidden=true></b><label><textarea rows=2 dir=auto></textarea></label><button type=button class=quiet>Remove</button>";
  row.querySelector("textarea").value = text;
  row.querySelector("button").onclick = () => { row.remove(); number(); };
  answers.append(row);
  number();
  return row;
}

function number() {
  const rows = [...answers.children];
  rows.forEach((row, i) => {
    row.querySelector("b").textContent = letters[i];
    row.querySelector("textarea").setAttribute("aria-label", `Answer ${letters[i]}`);
    row.querySelector("button").setAttribute("aria-label", `Remove answer ${letters[i]}`);
    row.querySelector("button").hidden = rows.length <= 2;
  });
  find("add").hidden = rows.length >= MOST;
}

function ask(prompt, responses) {
  find("prompt").value = prompt;
  answers.replaceChildren();
  responses.slice(0, MOST).forEach(addAnswer);
  while (answers.children.length < 2) addAnswer();
}

function question() {
  return { prompt: find("prompt").value, responses: [...answers.querySelectorAll("textarea")].map((each) => each.value) };
}

function say(text, error = false) {
  find("status").textContent = text;
  find("status").className = error ? "error" : "";
}

async function call(path, body) {
  const token = find("token").value;
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const found = await answer.json();
  if (answer.status === 401) find("token-field").hidden = false;
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function compare() {
  const asked = { ...question(), ...(find("model").value && { model: find("model").value }) };
  find("compare").disabled = true;
  say("The model is reading.");
  try {
    // Both requests are in flight together, so the server reads the texts once. A model that reads pairs has no embeddings.
    const [table, embedded] = await Promise.all([call("/v1/table", asked), call("/v1/embed", asked).catch(() => null)]);
    const silent = table.no_verdict?.[0]; // of a judge that writes; a picture would show it as a tie
    if (silent) throw new Error(`The judge gave no verdict on ${silent.responses.map((i) => letters[i]).join(" and ")} (${silent.why}).`);
    show(asked.responses, table.table, embedded);
    say("");
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  }
  find("compare").disabled = false;
}

function show(responses, table, embedded) {
  const probabilities = wins(table);
  const means = table.map((row) => row.reduce((sum, value) => sum + value, 0) / row.length);
  const order = means.map((_, i) => i).sort((a, b) => means[b] - means[a]);
  const found = cycles(table);
  find("verdict").textContent = found.triples.length
    ? `The preferences run in ${found.triples.length === 1 ? "a circle" : `${found.triples.length} circles of three`}`
    : found.cyclic.size ? "The preferences run in a circle" : `Answer ${letters[order[0]]} is the best`;
  const [words, ...each] = inWords(table, probabilities, order, found);
  find("summary").textContent = words;
  drawRanking(find("ranking"), order, means, responses);
  drawGraph(find("graph"), table, found, words);
  drawTable(find("table"), table, probabilities);
  find("table").parentElement.classList.toggle("wide", table.length > 5);
  find("embeddings").parentElement.classList.toggle("wide", table.length > 5 || embedded?.operator.length > 2);
  find("embedding-text").textContent = drawEmbeddings(find("embeddings"), embedded);
  find("words").replaceChildren(...each.map((sentence) => Object.assign(document.createElement("li"), { textContent: sentence })));
  find("results").hidden = false;
  find("results").focus({ preventScroll: true });
}

// The question is kept behind the #, in UTF-8 and base64url.
function toHash(asked) {
  const bytes = new TextEncoder().encode(JSON.stringify(asked));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function fromHash(hash) {
  const bytes = Uint8Array.from(atob(hash.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

async function copyLink() {
  location.hash = toHash(question());
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied.");
  } catch {
    say("The address of this page is now the link.");
  }
}

function readLink() {
  if (location.hash.length < 2) return false;
  try {
    const asked = fromHash(location.hash.slice(1));
    ask(String(asked.prompt), asked.responses.map(String));
    return true;
  } catch {
    say("The link of this page holds no question.", true);
    return false;
  }
}

async function offer() {
  const { data } = await call("/v1/models");
  find("model").replaceChildren(...data.map((each) => Object.assign(document.createElement("option"), { value: each.id, textContent: `${each.id} (${each.head})` })));
  find("models").hidden = data.length < 2;
  const { examples } = await call("/v1/examples");
  find("examples").hidden = !examples.length;
  find("examples").querySelector(".chips").replaceChildren(...examples.map((each) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: each.prompt, title: each.prompt });
    chip.onclick = () => { ask(each.prompt, each.responses); compare(); };
    return chip;
  }));
}

find("question").onsubmit = (event) => { event.preventDefault(); compare(); };
find("add").onclick = () => addAnswer().querySelector("textarea").focus();
find("link").onclick = copyLink;
find("token").onchange = () => offer().then(() => say(""), (error) => say(error.message, true));
window.onhashchange = readLink;
ask("", ["", ""]);
readLink();
offer().catch((error) => say(error.message, true));
