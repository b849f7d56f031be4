// The table of facts: a page of rows at a time, however many there are. All text goes in as text, never as HTML.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const explorer = $("explorer");
  if (!explorer) return;
  const PAGE = 50;
  const OUTCOMES = ["kept", "lost", "gained", "never learnt"];
  const LETTERS = "klgn";
  const MARKS = { kept: "●", lost: "○", gained: "◐", "never learnt": "–" };
  const names = new Intl.Collator("en", { numeric: true });
  let data, rows, shown, at = 0, sort = { by: "fact", down: false };

  // base64 -> gzip -> JSON
  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Control characters are made to be seen.
  const visible = (text) =>
    text.replace(/[\u0000-\u001f\u007f]/g, (c) => (c === "\u007f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0))))
      .replace(/[\u2028\u2029]/g, "␤");

  const place = (texts) => {
    const order = texts.map((_, i) => i).sort((a, b) => names.compare(texts[a], texts[b]));
    const rank = new Int32Array(texts.length);
    order.forEach((i, place) => { rank[i] = place; });
    return rank;
  };

  // A row is a number: run * facts + fact.
  function prepare() {
    const facts = data.prompts.length, runs = data.runs.length;
    data.known = new Int32Array(facts);
    data.asked = new Int32Array(facts);
    rows = [];
    data.runs.forEach((run, r) => {
      for (let f = 0; f < facts; f++) {
        const outcome = LETTERS.indexOf(run.outcomes[f]);
        if (outcome < 0) continue;
        rows.push(r * facts + f);
        data.asked[f]++;
        if (outcome === 0 || outcome === 2) data.known[f]++;
      }
    });
    const arms = [...new Set(data.runs.map((run) => run.arm))];
    const seeds = [...new Set(data.runs.map((run) => run.seed))].sort((a, b) => a - b);
    data.lower = data.prompts.map((prompt, f) => `${prompt}\n${data.gold[f]}`.toLowerCase());
    data.lowerSaid = data.said.map((said) => said.toLowerCase());
    data.ranks = { fact: place(data.prompts), gold: place(data.gold), said: place(data.said), arm: arms };
    fill("arm", arms);
    fill("seed", seeds);
    fill("outcome", OUTCOMES);
    $("rows").querySelector("[data-by=known]").textContent = `Runs that know it (of ${runs})`;
  }

  function fill(id, values) {
    const all = new Option("all", "");
    $(id).replaceChildren(all, ...values.map((value) => new Option(visible(String(value)), String(value))));
  }

  function choose() {
    const facts = data.prompts.length, words = $("words").value.trim().toLowerCase();
    const arm = $("arm").value, seed = $("seed").value, outcome = OUTCOMES.indexOf($("outcome").value);
    const inFact = words && data.lower.map((text) => text.includes(words));
    const inSaid = words && data.lowerSaid.map((text) => text.includes(words));
    const wanted = data.runs.map((run) => (!arm || run.arm === arm) && (!seed || String(run.seed) === seed));
    shown = rows.filter((row) => {
      const r = Math.floor(row / facts), f = row % facts, run = data.runs[r];
      if (!wanted[r] || (outcome >= 0 && run.outcomes[f] !== LETTERS[outcome])) return false;
      return !words || inFact[f] || run.answers.some((answers) => answers[f] >= 0 && inSaid[answers[f]]);
    });
    arrange();
  }

  // What a row is sorted by, as one number; where two are the same, by their facts.
  function arrange() {
    const facts = data.prompts.length, { ranks } = data;
    const armOf = data.runs.map((run) => ranks.arm.indexOf(run.arm));
    const keys = {
      fact: (r, f) => ranks.fact[f],
      gold: (r, f) => ranks.gold[f],
      arm: (r) => armOf[r],
      seed: (r) => data.runs[r].seed,
      outcome: (r, f) => LETTERS.indexOf(data.runs[r].outcomes[f]),
      said: (r, f) => { const said = data.runs[r].answers[1][f]; return said < 0 ? ranks.said.length : ranks.said[said]; },
      known: (r, f) => data.known[f] / data.asked[f],
    };
    const key = keys[sort.by], of = new Float64Array(data.runs.length * facts), way = sort.down ? -1 : 1;
    for (const row of shown) of[row] = key(Math.floor(row / facts), row % facts);
    shown.sort((a, b) => way * (of[a] - of[b]) || ranks.fact[a % facts] - ranks.fact[b % facts] || a - b);
    at = 0;
    draw();
  }

  const cell = (text, name = "", tag = "td") => {
    const made = document.createElement(tag);
    made.textContent = visible(text);
    made.className = name;
    if (name) made.dir = "auto";
    if (tag === "th") made.scope = "row";
    return made;
  };

  function draw() {
    const facts = data.prompts.length;
    const lines = shown.slice(at, at + PAGE).map((row) => {
      const r = Math.floor(row / facts), f = row % facts, run = data.runs[r];
      const outcome = OUTCOMES[LETTERS.indexOf(run.outcomes[f])];
      const [first, last] = run.answers.map((answers) => (answers[f] < 0 ? null : data.said[answers[f]]));
      const said = cell(last === null ? "" : last || "(nothing)", "words");
      if (first !== null && first !== last) {
        const before = document.createElement("small");
        before.textContent = visible(`after ${data.before}: ${first || "(nothing)"}`);
        said.append(before);
      }
      const line = document.createElement("tr");
      line.append(
        cell(data.prompts[f], "words", "th"), cell(data.gold[f], "words"), cell(run.arm, "words"), cell(String(run.seed)),
        cell(`${MARKS[outcome]} ${outcome}`, `words outcome ${outcome.split(" ")[0]}`), said,
        cell(`${data.known[f]} of ${data.asked[f]}`),
      );
      return line;
    });
    $("rows").tBodies[0].replaceChildren(...lines);
    const count = (n) => n.toLocaleString("en");
    $("found").textContent = `${count(shown.length)} of ${count(rows.length)} rows: ${count(facts)} facts in ${data.runs.length} runs, between ${data.before} and ${data.after}`;
    $("place").textContent = shown.length ? `${count(at + 1)} to ${count(Math.min(at + PAGE, shown.length))} of ${count(shown.length)}` : "No such facts";
    $("back").disabled = at === 0;
    $("on").disabled = at + PAGE >= shown.length;
    for (const button of $("rows").querySelectorAll("thead button")) {
      const mine = button.dataset.by === sort.by;
      if (mine) button.parentElement.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else button.parentElement.removeAttribute("aria-sort");
    }
  }

  async function load() {
    data = await unpack($(`facts-${$("of").value}`));
    prepare();
    choose();
    explorer.hidden = false;
  }

  function turn(by) {
    at += by;
    draw();
    $("rows").parentElement.scrollTop = 0;
  }

  let waiting;
  $("words").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 120); });
  for (const id of ["arm", "seed", "outcome"]) $(id).addEventListener("change", choose);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => {
    const of = $("of").value;
    setTimeout(() => { $("of").value = of; choose(); });
  });
  $("rows").tHead.addEventListener("click", (event) => {
    const by = event.target.dataset.by;
    if (!by) return;
    sort = { by, down: sort.by === by && !sort.down };
    arrange();
  });
  $("back").addEventListener("click", () => turn(-PAGE));
  $("on").addEventListener("click", () => turn(PAGE));
  const broken = (error) => {
    $("broken").textContent = `The facts cannot be shown here (${error.message}); they are all in the CSV files above.`;
    $("broken").hidden = false;
  };
  $("of").addEventListener("change", () => load().catch(broken));
  load().catch(broken);
})();
