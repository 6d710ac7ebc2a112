// Builds and updates elements. Text is only ever set as text, never as HTML, and an element changes only if its text
// does: so a selection, the focus and the screen reader's place survive each reading.

export function byId(id) {
  return document.getElementById(id);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export function setData(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

// make("p", {class: "sub"}, "text", child, ...) returns a new element; null children are left out.
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Keeps one child of `parent` for each item, in the items' order. A child that stays is updated, not made again.
export function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].filter((one) => one.dataset.key).map((one) => [one.dataset.key, one]));
  let place = [...parent.children].find((one) => one.dataset.key) ?? null;
  for (const [index, item] of items.entries()) {
    const key = String(keyOf(item, index));
    let node = old.get(key);
    old.delete(key);
    if (node === undefined) {
      node = create(item);
      node.dataset.key = key;
    }
    if (node === place) place = node.nextElementSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
  for (const node of old.values()) node.remove();
}

// A command with a button that copies it.
export function commandLine(command) {
  const code = make("code", {}, command);
  const button = make("button", { type: "button", "aria-label": `Copy the command ${command}` }, "Copy");
  button.addEventListener("click", () => copy(code, button));
  return make("div", { class: "command" }, code, button);
}

// What mends a problem: what to know, and the command.
export function mending({ hint, command }) {
  return [hint ? make("p", { class: "hint" }, hint) : null, command ? commandLine(command) : null];
}

async function copy(code, button) {
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Browsers refuse this on a page that is not served from localhost or over HTTPS.
    window.getSelection().selectAllChildren(code);
    done = "Selected: copy with Ctrl+C";
  }
  button.textContent = done;
  window.setTimeout(() => { button.textContent = "Copy"; }, 2500);
}

// Shows lines of text, each with what mends the problem that it tells, if it does. A line with a command stays when only
// its text changes, and with it the button that somebody has just pressed.
export function showLines(parent, lines, tag) {
  keyed(
    parent,
    lines,
    ({ text, ...rest }, index) => JSON.stringify(rest.command ? [index, rest] : [text, rest]),
    (line) => make(tag, {}, make("p", line.kind ? { class: line.kind } : {}, line.text), ...mending(line)),
    (node, line) => setText(node.firstChild, line.text),
  );
}

// Shows sentences, each with the command that mends it, if there is one.
export function showProblems(list, problems) {
  showLines(list, problems.map(({ sentence, hint, command }) => ({ text: sentence, hint, command })), "li");
}
