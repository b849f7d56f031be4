// Facts one by one, in a table of DataTables (datatables.net). All text goes in as text, never as HTML.
const text = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

let library; // loaded when the first table is opened
async function load() {
  document.head.prepend(Object.assign(document.createElement("style"), { textContent: await text("library-css") }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const look = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", look);
  look();
  const address = URL.createObjectURL(new Blob([await text("library-js")], { type: "text/javascript" }));
  return (await import(address)).default;
}

async function fill(facts) {
  if (!facts.open || facts.dataset.filled) return;
  facts.dataset.filled = "true";
  const DataTable = await (library ??= load());
  new DataTable(facts.querySelector("table"), {
    data: JSON.parse(await text(`${facts.id}-rows`)),
    columnDefs: [{ targets: "_all", render: DataTable.render.text() }, { targets: 1, cellType: "th" }],
    columnControl: { target: 1, content: ["search"] },
    autoWidth: false, order: [], search: { smart: false }, pageLength: 25, language: { entries: { _: "facts", 1: "fact" } },
    layout: { topStart: "search", topEnd: null, bottomStart: "info", bottomEnd: ["pageLength", "paging"] },
  });
  const names = [...facts.querySelectorAll("thead .dt-column-title")].map((title) => title.textContent);
  for (const field of facts.querySelectorAll("thead :is(input, select)"))
    field.ariaLabel = `${names[field.closest("td").dataset.dtColumn]}: ${field.type === "text" ? "search" : "how to search"}`;
  Object.assign(facts.querySelector(".dt-layout-table > div"), { tabIndex: 0, role: "group", ariaLabel: "Facts" });
}

const all = document.querySelectorAll("details.facts");
for (const facts of all) {
  const shown = () => fill(facts).catch((error) => {
    facts.querySelector("[role=alert]").textContent =
      `The facts cannot be shown here (${error.message}); they are all in the CSV file.`;
  });
  facts.hidden = false;
  facts.open = all.length === 1;
  facts.addEventListener("toggle", shown);
  shown();
}
