// A small part of Markdown, as DOM nodes: nothing of what a model wrote ever becomes HTML.
function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c != null));
  return node;
}

const INLINE = /(`+)([^]*?[^`])\1(?!`)|\*\*([^\s*][^]*?)\*\*|\*([^\s*][^*\n]*?)\*|\[([^\]\n]+)\]\(([^\s)]+)\)|(https?:\/\/[^\s<>()"']+[^\s<>()"'.,;:!?])/;

function inline(text, depth = 0) {
  const out = [];
  while (text) {
    const found = depth < 8 ? INLINE.exec(text) : null;
    if (!found) { out.push(text); break; }
    if (found.index) out.push(text.slice(0, found.index));
    const [all, , code, strong, weak, label, address, url] = found;
    if (code != null) out.push(el("code", {}, code));
    else if (strong != null) out.push(el("strong", {}, ...inline(strong, depth + 1)));
    else if (weak != null) out.push(el("em", {}, ...inline(weak, depth + 1)));
    else if (url != null) out.push(link(url, [url]));
    else if (/^https?:\/\//i.test(address)) out.push(link(address, inline(label, depth + 1)));
    else out.push(all);
    text = text.slice(found.index + all.length);
  }
  return out;
}

const link = (address, children) => el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...children);

function codeBlock(text) {
  return el("div", { class: "block" }, el("pre", {}, el("code", {}, text)), copyButton(() => text));
}

function copyButton(text) {
  const button = el("button", { class: "quiet", type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch { button.textContent = "Not allowed"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  return button;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());

function markdown(text) {
  const lines = text.split("\n"), out = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = /^\s{0,3}(```+|~~~+)/.exec(line);
    if (fence) {
      const body = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(fence[1]); i++) body.push(lines[i]);
      const open = i++ >= lines.length;
      if (body.length || !open) out.push(codeBlock(body.join("\n")));
    } else if (/^#{1,6}\s/.test(line)) {
      out.push(el("h3", {}, ...inline(line.replace(/^#+\s+/, ""))));
      i++;
    } else if (/^\s*>/.test(line)) {
      const body = [];
      for (; i < lines.length && /^\s*>/.test(lines[i]); i++) body.push(lines[i].replace(/^\s*>\s?/, ""));
      out.push(el("blockquote", {}, el("p", {}, ...inline(body.join("\n")))));
    } else if (line.includes("|") && /^[\s|:-]+$/.test(lines[i + 1] || "") && lines[i + 1].includes("-")) {
      const head = cells(line), rows = [];
      for (i += 2; i < lines.length && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
      const row = (kind) => (texts) => el("tr", {}, ...texts.slice(0, 64).map((t) => el(kind, {}, ...inline(t))));
      out.push(el("div", { class: "table" }, el("table", {}, el("thead", {}, row("th")(head)), el("tbody", {}, ...rows.map(row("td"))))));
    } else if (ITEM.test(line)) {
      const ordered = /\d/.test(ITEM.exec(line)[2]), items = [];
      const list = el(ordered ? "ol" : "ul", ordered ? { start: parseInt(ITEM.exec(line)[2], 10) } : {});
      const base = ITEM.exec(line)[1].length;
      for (; i < lines.length; i++) {
        const item = ITEM.exec(lines[i]);
        if (item && item[1].length <= base) items.push([item[3]]);
        else if (items.length && lines[i].trim() && /^\s/.test(lines[i])) items[items.length - 1].push(lines[i].replace(/^\s{1,4}/, ""));
        else break;
      }
      for (const [first, ...rest] of items) list.append(el("li", {}, ...inline(first), ...(rest.length ? markdown(rest.join("\n")) : [])));
      out.push(list);
    } else if (!line.trim()) {
      i++;
    } else {
      const body = [line];
      for (i++; i < lines.length && lines[i].trim() && !/^\s{0,3}(```|~~~|#{1,6}\s|>)/.test(lines[i]) && !ITEM.test(lines[i]); i++) body.push(lines[i]);
      out.push(el("p", {}, ...inline(body.join("\n"))));
    }
  }
  return out;
}
