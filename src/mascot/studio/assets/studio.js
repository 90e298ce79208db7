// What Gradio's page has no parts for: live parts, buttons of cards, captions in place, crop and mask.
"use strict";
(() => {
  const words = JSON.parse(document.getElementById("studio-words").textContent);
  const known = new Map();
  const every = { photos: 4000, jobs: 1000, library: 4000 };
  const asked = new Map();

  function toast(sentence) {
    document.querySelector(".toast")?.remove();
    const shown = document.createElement("div");
    shown.className = "toast";
    shown.setAttribute("role", "alert");
    shown.textContent = sentence;
    (document.querySelector("dialog[open]") || document.body).append(shown);  // over a dialog, not behind it
    setTimeout(() => shown.remove(), 9000);
  }

  async function send(address, body = {}) {
    try {
      const answer = await fetch(address, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) toast(said.error || words.lost);
      return answer.ok;
    } catch {
      toast(words.lost);
      return false;
    }
  }

  // Somebody who writes, or has opened a part, is not disturbed.
  function replace(part, content) {
    const active = document.activeElement;
    if (part.contains(active) && active.matches("input, textarea")) return false;
    const folded = new Map([...part.querySelectorAll("details")].map((one, i) => [keyOf(one, i), one.open]));
    const focus = part.contains(active) ? active.dataset.post || active.dataset.edit : null;
    part.innerHTML = content;
    part.querySelectorAll("details").forEach((one, i) => {
      if (folded.has(keyOf(one, i))) one.open = folded.get(keyOf(one, i));
    });
    if (focus) part.querySelector(`[data-post="${focus}"], [data-edit="${focus}"]`)?.focus();
    return true;
  }

  const keyOf = (details, index) => details.closest("[id]:not([data-live])")?.id + details.textContent.slice(0, 12) + index;

  async function load(part) {
    const name = part.dataset.live;
    const address = `/studio/live/${name}?language=${words.language}`;
    const tag = part.dataset.filled ? known.get(name) : null;
    try {
      const answer = await fetch(address, { headers: tag ? { "if-none-match": tag } : {}, cache: "no-store" });
      if (answer.status === 200 && replace(part, await answer.text())) {
        known.set(name, answer.headers.get("etag"));
        part.dataset.filled = "yes";
      }
    } catch { /* the server may be restarting: the next look finds it */ }
  }

  function look(now = false) {
    for (const part of document.querySelectorAll("[data-live]")) {
      const name = part.dataset.live, at = performance.now();
      const hidden = document.hidden || part.offsetParent === null;
      if (!now && (hidden || at - (asked.get(name) || -1e9) < every[name])) continue;
      asked.set(name, at);
      load(part);
    }
  }

  document.addEventListener("click", async (event) => {
    const act = event.target.closest("[data-post]"), edit = event.target.closest("[data-edit]");
    const seed = event.target.closest("[data-seed]");
    if (event.target.closest("#draw-go")) {  // the result, and how far it is, may be out of sight
      const frame = document.getElementById("draw-result").getBoundingClientRect();
      if (frame.bottom < 80 || frame.top > innerHeight) document.getElementById("draw-result").scrollIntoView();
    }
    if (act) {
      act.disabled = true;
      if (await send(act.dataset.post) && act.dataset.say) toast(act.dataset.say);
      act.disabled = false;
      look(true);
    } else if (edit) {
      openDesk(edit.dataset.edit);
    } else if (seed) {
      const field = document.querySelector("#draw-seed input");
      field.value = seed.dataset.seed;
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.dispatchEvent(new Event("change", { bubbles: true }));
      document.getElementById("draw-go").click();
    }
  });

  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("[data-form]");
    if (!form) return;
    event.preventDefault();
    document.activeElement.blur();
    await send(form.dataset.form, Object.fromEntries(new FormData(form)));
    look(true);
  });

  document.addEventListener("change", async (event) => {
    const number = event.target.dataset?.caption;
    if (number && await send(`/studio/photos/${number}/caption`, { text: event.target.value })) toast(words.saved);
  });

  // The desk: one photo, a frame to crop by or a mask to paint.
  function openDesk(number) {
    document.querySelector(".desk")?.remove();
    const desk = document.createElement("dialog");
    desk.className = "desk";
    desk.innerHTML = `<div class="row"><button class="act" data-mode="crop"></button><button class="act" data-mode="mask"></button>
      <button class="act end quiet" data-do="close"></button></div><canvas tabindex="0"></canvas>
      <div class="row for-mask"><button class="act" data-tool="brush"></button><button class="act" data-tool="erase"></button>
      <input type="range" min="4" max="80" value="28"><button class="act" data-do="border"></button><button class="act" data-do="unmask"></button><button class="act" data-do="undo"></button></div>
      <div class="row for-crop"><button class="act" data-do="whole"></button></div>
      <p></p><div class="row"><button class="act strong end" data-do="save"></button></div>`;
    for (const one of desk.querySelectorAll("button")) {
      one.type = "button";
      one.textContent = words[one.dataset.mode || one.dataset.tool || one.dataset.do];
    }
    desk.querySelector("input").setAttribute("aria-label", words.brush);
    document.body.append(desk);
    desk.showModal();
    work(desk, number);
  }

  function work(desk, number) {
    const canvas = desk.querySelector("canvas"), pen = canvas.getContext("2d");
    const state = { mode: "crop", tool: "brush", image: null, box: [0, 0, 1, 1], from: null };
    const mask = document.createElement("canvas");
    const brush = desk.querySelector("input");

    function fit(image) {
      const scale = Math.min(1, 640 / Math.max(image.width, image.height));
      const grow = Math.max(1, 320 / Math.max(image.width, image.height));
      canvas.width = mask.width = Math.round(image.width * Math.max(scale, scale < 1 ? 0 : grow));
      canvas.height = mask.height = Math.round(image.height * Math.max(scale, scale < 1 ? 0 : grow));
    }

    function show() {
      if (!state.image) return;
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(state.image, 0, 0, canvas.width, canvas.height);
      if (state.mode === "mask") {
        const tint = document.createElement("canvas");
        tint.width = canvas.width; tint.height = canvas.height;
        const ink = tint.getContext("2d");
        ink.drawImage(mask, 0, 0);
        ink.globalCompositeOperation = "source-in";
        ink.fillStyle = "#00b7ff";
        ink.fillRect(0, 0, tint.width, tint.height);
        pen.globalAlpha = 0.5;
        pen.drawImage(tint, 0, 0);
        pen.globalAlpha = 1;
        return;
      }
      const [left, top, right, bottom] = state.box.map((share, i) => share * (i % 2 ? canvas.height : canvas.width));
      pen.fillStyle = "#000a";
      pen.fillRect(0, 0, canvas.width, top);
      pen.fillRect(0, bottom, canvas.width, canvas.height - bottom);
      pen.fillRect(0, top, left, bottom - top);
      pen.fillRect(right, top, canvas.width - right, bottom - top);
      pen.strokeStyle = "#fff";
      pen.lineWidth = 2;
      pen.strokeRect(left, top, right - left, bottom - top);
    }

    async function take(mode) {
      state.mode = mode;
      for (const one of desk.querySelectorAll("[data-mode]")) one.setAttribute("aria-pressed", one.dataset.mode === mode);
      desk.querySelector(".for-mask").hidden = mode !== "mask";
      desk.querySelector(".for-crop").hidden = mode !== "crop";
      for (const row of desk.querySelectorAll(".for-mask, .for-crop")) row.style.display = row.hidden ? "none" : "";
      desk.querySelector("p").textContent = words[`${mode}_help`];
      canvas.setAttribute("aria-label", words[`${mode}_help`]);
      tool("brush");
      state.image = await picture(`/studio/photo/${number}?${mode === "crop" ? "whole=1&" : ""}now=${Date.now()}`);
      fit(state.image);
      if (mode === "mask") {
        const old = await picture(`/studio/mask/${number}?now=${Date.now()}`);
        if (old) paintOld(old);
      }
      show();
    }

    function paintOld(old) {
      const ink = mask.getContext("2d");
      ink.drawImage(old, 0, 0, mask.width, mask.height);
      const pixels = ink.getImageData(0, 0, mask.width, mask.height);
      for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
      ink.putImageData(pixels, 0, 0);
    }

    function tool(name) {
      state.tool = name;
      for (const one of desk.querySelectorAll("[data-tool]")) one.setAttribute("aria-pressed", one.dataset.tool === name);
    }

    function place(event) {
      const frame = canvas.getBoundingClientRect();
      return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    }

    function paint([x, y]) {
      const ink = mask.getContext("2d");
      ink.globalCompositeOperation = state.tool === "erase" ? "destination-out" : "source-over";
      ink.strokeStyle = ink.fillStyle = "#fff";
      ink.lineWidth = brush.value; ink.lineCap = "round";
      const [fromX, fromY] = state.from || [x, y];
      ink.beginPath();
      ink.moveTo(fromX * mask.width, fromY * mask.height);
      ink.lineTo(x * mask.width + 0.01, y * mask.height);
      ink.stroke();
      state.from = [x, y];
    }

    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      state.from = place(event);
      if (state.mode === "mask") { remember(); paint(state.from); show(); return; }
      const [x, y] = state.from, [left, top, right, bottom] = state.box;
      const near = (one, other) => Math.abs(one - other) < 0.06;
      if ((near(x, left) || near(x, right)) && (near(y, top) || near(y, bottom)))  // a corner: the other one stays
        state.from = [near(x, left) ? right : left, near(y, top) ? bottom : top];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!state.from) return;
      const [x, y] = place(event).map((share) => Math.min(1, Math.max(0, share)));
      if (state.mode === "mask") paint([x, y]);
      else {
        const [fromX, fromY] = state.from;
        if (Math.abs(x - fromX) > 0.02 && Math.abs(y - fromY) > 0.02)
          state.box = [Math.min(x, fromX), Math.min(y, fromY), Math.max(x, fromX), Math.max(y, fromY)];
      }
      show();
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { state.from = null; });

    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!move || state.mode !== "crop") return;
      event.preventDefault();
      const step = 0.02, box = [...state.box];
      if (event.shiftKey) { box[2] += move[0] * step; box[3] += move[1] * step; }
      else for (const i of [0, 1, 2, 3]) box[i] += move[i % 2] * step;
      if (Math.min(...box) >= -1e-9 && Math.max(...box) <= 1 + 1e-9 && box[2] - box[0] >= 0.1 && box[3] - box[1] >= 0.1) {
        state.box = box;
        show();
      }
    });

    async function carry(verb, body) {
      const done = await send(`/studio/photos/${number}/${verb}`, body);
      look(true);
      return done;
    }

    function remember() {
      const before = document.createElement("canvas");
      before.width = mask.width; before.height = mask.height;
      before.getContext("2d").drawImage(mask, 0, 0);
      state.past = [...(state.past || []).slice(-20), before];
    }

    function undo() {
      const before = state.past?.pop();
      if (!before) return;
      clear();
      mask.getContext("2d").drawImage(before, 0, 0);
      show();
    }

    function clear() {
      mask.getContext("2d").globalCompositeOperation = "source-over";
      mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
    }

    const painted = () => mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data.some((value, i) => i % 4 === 3 && value > 127);

    async function border() {
      const answer = await fetch(`/studio/border/${number}?now=${Date.now()}`);
      if (!answer.ok) return toast((await answer.json().catch(() => ({}))).error || words.lost);
      const proposed = await picture(URL.createObjectURL(await answer.blob()));
      remember();
      clear();
      paintOld(proposed);
      show();
    }

    function flat() {
      const out = document.createElement("canvas");
      out.width = mask.width; out.height = mask.height;
      const ink = out.getContext("2d");
      ink.fillStyle = "#000";
      ink.fillRect(0, 0, out.width, out.height);
      ink.drawImage(mask, 0, 0);
      return out.toDataURL("image/png");
    }

    desk.addEventListener("click", async (event) => {
      const one = event.target.closest("button");
      if (!one) return;
      if (one.dataset.mode) await take(one.dataset.mode);
      if (one.dataset.tool) tool(one.dataset.tool);
      const wanted = one.dataset.do;
      if (wanted === "close") desk.close();
      if (wanted === "border") await border();
      if (wanted === "undo") undo();
      if (wanted === "unmask") { remember(); clear(); show(); }
      if (wanted === "whole" && await carry("crop", { box: null })) desk.close();
      if (wanted === "save") {
        const whole = state.box.every((side, i) => Math.abs(side - (i < 2 ? 0 : 1)) < 0.005);
        const done = state.mode === "crop" ? await carry("crop", { box: whole ? null : state.box })
          : painted() ? await carry("mask", { image: flat() }) : await carry("unmask");
        if (done) desk.close();
      }
    });
    desk.addEventListener("close", () => { desk.remove(); document.querySelector(`[data-edit="${number}"]`)?.focus(); });
    take("crop");
  }

  function picture(source) {
    return new Promise((done) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => done(null);
      image.src = source;
    });
  }

  document.documentElement.lang = words.language;
  window.studio = { refresh: () => look(true) };
  setInterval(look, 250);
  document.addEventListener("visibilitychange", () => look());
})();
