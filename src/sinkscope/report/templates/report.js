"use strict";
(() => {
  document.documentElement.classList.add("js");
  const $ = (query, root = document) => root.querySelector(query);
  const all = (query, root = document) => [...root.querySelectorAll(query)];

  all("button.more").forEach((button) => {
    const rows = document.getElementById(button.getAttribute("aria-controls"));
    const show = (open) => { button.setAttribute("aria-expanded", String(open)); rows.hidden = !open; };
    show(false);
    button.addEventListener("click", () => show(rows.hidden));
  });

  const list = $(".cards");
  if (!list) return;
  const cards = all(".card", list).map((node) => ({
    node, far: JSON.parse(node.dataset.far), task: node.dataset.task, index: Number(node.dataset.index),
    prompt: $(".prompt", node).textContent,
  }));
  const budget = $("#budget"), sort = $("#sort"), task = $("#task"), find = $("#find"), output = $("#shown");
  const left = $("#left"), right = $("#right"), wipe = $("#wipe"), stage = $(".stage");
  let visible = cards, current = null;

  const arms = () => (budget ? JSON.parse(budget.selectedOptions[0].dataset.arms) : []);
  const distance = (card, metric, arm) => (card.far[arm] || {})[metric];

  function score(card, how) {
    const [kind, metric] = how.split(":");
    const [, sink, control] = arms();
    const sinkFar = distance(card, metric, sink), controlFar = distance(card, metric, control);
    if (kind === "far") return sinkFar;
    return sinkFar === undefined || controlFar === undefined ? undefined : sinkFar - controlFar;
  }

  function compare(a, b) {
    const how = sort.value;
    if (how === "order") return a.index - b.index;
    if (how === "task" || how === "prompt") return a[how].localeCompare(b[how]) || a.index - b.index;
    const x = score(a, how), y = score(b, how);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || a.index - b.index;
    return y - x || a.index - b.index;
  }

  function arrange() {
    const text = find.value.trim().toLowerCase();
    visible = cards.filter((c) => (!task.value || c.task === task.value) && c.prompt.toLowerCase().includes(text)).sort(compare);
    const kept = new Set(visible);
    cards.forEach((c) => { c.node.hidden = !kept.has(c); });
    visible.forEach((c) => list.append(c.node));
    output.textContent = `${visible.length} of ${cards.length} units`;
  }

  function dress() {
    const shown = arms();
    if (!shown.length) return;
    cards.forEach((c) => all("figure", c.node).forEach((f) => { f.hidden = !shown.includes(f.dataset.arm); }));
    setArms(shown[0], shown[1]);
  }

  function setArms(a, b) {
    const known = [...left.options].map((o) => o.value);
    if (known.includes(a)) left.value = a;
    if (known.includes(b)) right.value = b;
    paint();
  }

  function source(arm) {
    const figure = all("figure", current.node).find((f) => f.dataset.arm === arm);
    const image = figure && $("img", figure);
    return image ? image.src : null;
  }

  function paint() {
    if (!current) return;
    [["left", left], ["right", right]].forEach(([side, choice]) => {
      const image = $(`img.${side}`, stage), src = source(choice.value);
      if (src) image.src = src; else image.removeAttribute("src");
      image.alt = `${choice.value}: ${current.prompt}`;
      $(side === "left" ? ".tl" : ".tr", stage).textContent = src ? choice.value : `${choice.value}: not available`;
    });
    $(".compare .prompt").textContent = current.prompt;
  }

  function open(card) {
    if (!card) return;
    if (current) current.node.removeAttribute("aria-current");
    current = card;
    card.node.setAttribute("aria-current", "true");
    paint();
  }

  function go(by) {
    if (!visible.length) return;
    const at = visible.indexOf(current);
    open(visible[(at + by + visible.length) % visible.length]);
  }

  cards.forEach((c) => $(".open", c.node).addEventListener("click", () => {
    open(c);
    const box = $(".compare").getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) $(".compare").scrollIntoView({ block: "start" });
  }));
  const slide = () => stage.style.setProperty("--cut", `${wipe.value}%`);
  wipe.addEventListener("input", slide);
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    wipe.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    slide();
  };
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  if (budget) budget.addEventListener("change", () => { dress(); arrange(); });
  [sort, task].forEach((control) => control.addEventListener("change", arrange));
  find.addEventListener("input", arrange);
  [left, right].forEach((control) => control.addEventListener("change", paint));
  $("#prev").addEventListener("click", () => go(-1));
  $("#next").addEventListener("click", () => go(1));

  const further = [...sort.options].find((o) => o.value.startsWith("far:"));
  if (further) sort.value = further.value;
  dress();
  if (!arms().length && right.options.length > 1) right.selectedIndex = 1;
  arrange();
  open(visible[0]);
  slide();
})();
