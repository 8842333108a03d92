/** The visitor's selection, kept in the fragment of the address so that a reload or a shared link shows the same. */

const TOPIC = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/;
const TOPIC_LENGTH = 200;
/** What the panel of events selects by. */
const FILTERS = ["type", "key", "text"];
const MOST_COMPARED = 5;

/**
 * Read a selection from a fragment. If `statistic` is null, the page chooses field and statistic. Else a missing field
 * means the events themselves and a missing key means all keys.
 */
export function parseSelection(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const sort = given.get("sort") || "-count";
  return {
    topic: checkedTopic(given.get("topic")),
    window: given.get("window"),
    key: given.get("key"),
    compare: [...new Set(given.getAll("compare"))].filter((key) => key !== given.get("key")).slice(0, MOST_COMPARED),
    field: given.get("field"),
    statistic: given.get("statistic"),
    events: Object.fromEntries(FILTERS.map((name) => [name, given.get(`events-${name}`) || null])),
    sort: sort.replace(/^-/, ""),
    descending: sort.startsWith("-"),
  };
}

/** The inverse of parseSelection, with a leading `#`. */
export function formatSelection(selection) {
  const given = new URLSearchParams();
  for (const name of ["topic", "window", "key", "field", "statistic"]) {
    if (selection[name] !== null) given.set(name, selection[name]);
  }
  for (const key of selection.compare) given.append("compare", key);
  for (const name of FILTERS) {
    if (selection.events[name] !== null) given.set(`events-${name}`, selection.events[name]);
  }
  const sort = (selection.descending ? "-" : "") + selection.sort;
  if (sort !== "-count") given.set("sort", sort);
  return `#${given}`;
}

/** Return a valid topic name, else null: a link may contain anything, and the page puts the topic into a shell command. */
function checkedTopic(name) {
  return name !== null && name.length <= TOPIC_LENGTH && TOPIC.test(name) ? name : null;
}
