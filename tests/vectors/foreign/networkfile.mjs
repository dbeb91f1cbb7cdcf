// The network file (SPEC.md §8.2): the little of TOML 1.0 that such a file needs.
import { decodeGenesis, parseAddress } from "./records.mjs";
import { WireError, need, text } from "./wire.mjs";

/** Comments, `key = "text" | integer | [ "text", … ]` at the top level, basic and literal strings; all else is refused. */
export function parseToml(source) {
  let at = 0;
  const fail = (why) => { throw new WireError(`TOML, at character ${at}: ${why}`); };
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(source);
    if (found) at = pattern.lastIndex;
    return found?.[0];
  };
  const space = () => match(/(?:[ \t\r\n]|#[^\r\n]*)+/y);
  const string = () => {
    const basic = match(/"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\(?:[btnfr"\\]|u[0-9A-Fa-f]{4}))*"/y);
    if (basic !== undefined) return JSON.parse(basic.replaceAll("\t", "\\t"));
    const literal = match(/'[^'\x00-\x08\x0a-\x1f\x7f]*'/y);
    return literal === undefined ? fail("a string was expected") : literal.slice(1, -1);
  };
  const value = () => {
    if (source[at] === "[") {
      at++;
      const items = [];
      for (space(); source[at] !== "]"; space()) {
        items.push(string());
        space();
        if (source[at] === ",") at++;
        else if (source[at] !== "]") fail("a comma was expected");
      }
      at++;
      return items;
    }
    const number = match(/[+-]?[0-9]+/y);
    return number === undefined ? string() : Number(number);
  };
  const out = new Map();
  for (space(); at < source.length; space()) {
    const key = match(/[A-Za-z0-9_-]+/y) ?? fail("a key was expected");
    if (out.has(key)) fail(`${key} twice`);
    match(/[ \t]+/y);
    if (source[at++] !== "=") fail("= was expected");
    match(/[ \t]+/y);
    out.set(key, value());
    match(/[ \t]*(#[^\r\n]*)?/y);
    if (at < source.length && match(/\r?\n/y) === undefined) fail("the end of a line was expected");
  }
  return out;
}

/** R8.7 to R8.11: the genesis and the entry points of a file, or a WireError. */
export function readNetworkFile(bytes) {
  need(bytes.length <= 262144, "the file is too long");
  const file = parseToml(text(bytes));
  need(file.get("schema") === 1, "schema is not 1");
  const keys = ["schema", "name", "network_id", "genesis", "bootstrap"];
  need(file.size === keys.length && keys.every((key) => file.has(key)), "a key is missing or more");
  for (const key of ["name", "network_id", "genesis"]) need(typeof file.get(key) === "string", key);
  const record = Buffer.from(file.get("genesis"), "base64");
  need(record.toString("base64") === file.get("genesis"), "genesis is not canonical base64");
  const genesis = decodeGenesis(record);
  need(file.get("network_id") === genesis.networkId.toString("hex"), "network_id is not the record's");
  need(file.get("name") === genesis.name, "name is not the record's");
  const bootstrap = file.get("bootstrap");
  need(Array.isArray(bootstrap) && bootstrap.length <= 64, "bootstrap");
  need(new Set(bootstrap).size === bootstrap.length, "an entry point twice");
  for (const address of bootstrap) {
    const { peer, relayed } = parseAddress(address);
    need(peer && !relayed, "an entry point without a peer id");
  }
  return { genesis, bootstrap };
}
