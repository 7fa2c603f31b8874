"use strict";

// Theme: the system's, until the button says otherwise.
const root = document.documentElement;
const themeButton = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const showTheme = () => {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  themeButton.setAttribute("aria-pressed", String(isDark()));
};
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
systemDark.addEventListener("change", showTheme);
showTheme();

// Sorting: by data-value where a cell has it, else by text; what is missing comes last.
const key = (row, index) => {
  const cell = row.cells[index];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim();
  return value === "" ? null : Number(value);
};
const compare = (a, b) =>
  typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
for (const button of document.querySelectorAll(".sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.closest("thead").querySelectorAll("[aria-sort]")) {
      other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * compare(a, b);
    });
    body.append(...keyed.map(([, row]) => row));
  });
}

// Filter: rows that contain every word.
for (const input of document.querySelectorAll(".filter input")) {
  const target = input.closest(".target");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of target.querySelectorAll(":scope > .scroll tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    target.querySelector(".none-left").hidden = shown > 0;
  });
}

// Dialogs: Escape, their button or a click beside them closes.
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

// Figures: enlarge in a dialog.
const dialog = document.getElementById("enlarged");
for (const button of document.querySelectorAll(".expand")) {
  button.addEventListener("click", () => {
    const small = button.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = small.src;
    large.alt = small.alt;
    dialog.showModal();
  });
}

// A number: the records it was computed from, with the commands that make and repeat each.
const behind = document.getElementById("behind");
const { commands, runs } = JSON.parse(document.getElementById("run-index").textContent);
const filled = (text, run) => text.replace(/\{(\w+)\}/g, (_, name) => run[name]);
const element = (name, text, parts = []) => {
  const made = document.createElement(name);
  made.append(text, ...parts);
  return made;
};
const recordOf = (run) => {
  const link = element("a", "record.json");
  link.href = `../../${filled(commands.record, run)}`;
  return element("li", `seed ${run.seed} `, [
    run.kept ? `in papers/${run.paper}/archive/${run.scale}.jsonl` : link,
    element("code", filled(commands.make, run)),
    element("code", filled(run.kept ? commands.replay_kept : commands.replay, run)),
  ]);
};
const headingOf = (cell) => {
  let last = -1;
  for (const heading of cell.closest("table").querySelector(".names").cells) {
    last += heading.colSpan;
    if (last >= cell.cellIndex) return heading.textContent.replace("↕", "").trim();
  }
  return "";
};
const nameOf = (button) => {
  const cell = button.closest("td");
  if (!cell) return button.dataset.name ?? button.closest(".target").querySelector("h4").textContent;
  return `${cell.parentElement.cells[0].textContent}, ${headingOf(cell)}: ${button.textContent}`;
};
for (const button of document.querySelectorAll("button.behind")) {
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => {
    const source = button.closest(".target, .claim")?.querySelector(".kicker, .source");
    behind.querySelector(".kicker").textContent = source?.textContent ?? "";
    behind.querySelector("h3").textContent = nameOf(button);
    behind.querySelector(".each").textContent = button.dataset.each ?? "";
    const lists = button.dataset.runs.split(" ").map((place) => {
      const [paper, scale, experiment, case_, arm, seeds, kept] = runs[place];
      const records = seeds.split(" ").map((seed) =>
        recordOf({ paper, scale, experiment, case: case_, arm, seed, kept }),
      );
      return [element("h4", `${experiment} / ${case_} / ${arm}`), element("ul", "", records)];
    });
    behind.querySelector(".runs").replaceChildren(...lists.flat());
    behind.showModal();
    behind.scrollTop = 0;
  });
}

// Claims: those that agree with every choice; a count in the first lines makes the choices.
const form = document.getElementById("claim-filter");
const showClaims = () => {
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
  const lines = [...document.querySelectorAll(".claim-lines li")];
  for (const line of lines) {
    line.hidden = !chosen.every((select) => line.dataset[select.name] === select.value);
  }
  const shown = lines.filter((line) => !line.hidden).length;
  form.querySelector("output").textContent = `${shown} of ${lines.length} claims`;
};
form?.addEventListener("change", showClaims);
form?.addEventListener("reset", () => setTimeout(showClaims));
for (const count of document.querySelectorAll(".found a.chip")) {
  count.addEventListener("click", () => {
    for (const select of form.querySelectorAll("select")) {
      select.value = count.dataset[select.name] ?? "";
    }
    showClaims();
  });
}

// A link into closed sections opens them, again too, when the address stays the same.
const reveal = (hash) => {
  const target = document.getElementById(hash.slice(1));
  const closed = [];
  for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) {
    if (!box.open) closed.push(box);
  }
  for (const box of closed) box.open = true;
  if (closed.length) target.scrollIntoView();
};
addEventListener("hashchange", () => reveal(location.hash));
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link) reveal(link.hash);
});
reveal(location.hash);

// Opening a paper closes the one above it: its own head stays in view.
for (const paper of document.querySelectorAll("details.paper")) {
  paper.querySelector("summary").addEventListener("click", () => {
    const stay = () => {
      if (paper.open && paper.getBoundingClientRect().top < 0) paper.scrollIntoView();
    };
    paper.addEventListener("toggle", stay, { once: true });
  });
}

// Printing opens all; a group of which one is open at a time would close the others.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const paper of document.querySelectorAll("details.paper")) paper.removeAttribute("name");
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
  for (const paper of document.querySelectorAll("details.paper")) paper.name = "paper";
});

// The contents mark the section in view.
const links = new Map(
  [...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]),
);
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-10% 0px -80% 0px" },
);
for (const id of links.keys()) watcher.observe(document.getElementById(id));
