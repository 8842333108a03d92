/** What the visitor chose, kept in the fragment of the page's address so that a reload or a shared link shows the same. */

const TOPIC = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/;
const TOPIC_LENGTH = 200;

/**
 * Read a selection from a fragment. null as `statistic` says that field and statistic are still the page's own to
 * choose; with a statistic, a missing field means the events themselves and a missing key all keys.
 */
export function parseSelection(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const sort = given.get("sort") || "-count";
  return {
    topic: checkedTopic(given.get("topic")),
    window: given.get("window"),
    key: given.get("key"),
    field: given.get("field"),
    statistic: given.get("statistic"),
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
  const sort = (selection.descending ? "-" : "") + selection.sort;
  if (sort !== "-count") given.set("sort", sort);
  return `#${given}`;
}

/** A link may name anything, and the topic ends up in a shell command to copy: let nothing pass but the grammar. */
function checkedTopic(name) {
  return name !== null && name.length <= TOPIC_LENGTH && TOPIC.test(name) ? name : null;
}
