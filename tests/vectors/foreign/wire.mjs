// Bytes, text forms and msgpack (SPEC.md §1, R2.2). Written from SPEC.md alone.
import { createHash } from "node:crypto";

export class WireError extends Error {}
/** A record that decodes and is not what it claims to be; `reason` is SPEC.md's name for it. */
export class Refused extends Error {
  constructor(reason, detail = "") {
    super(detail || reason);
    this.reason = reason;
  }
}

export const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};
export const ascii = (text) => Buffer.from(text, "latin1");
export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const unhex = (text) => {
  if (!/^([0-9a-f]{2})*$/.test(text)) throw new WireError("not lower-case hex");
  return Buffer.from(text, "hex");
};
export const ZERO32 = Buffer.alloc(32);
export const I63_MAX = 2n ** 63n - 1n;
export const AMOUNT_MAX = 2n ** 48n;

export function need(condition, message) {
  if (!condition) throw new WireError(message);
}

export function u(bits, value) {
  const out = Buffer.alloc(bits / 8);
  let rest = BigInt.asUintN(bits, BigInt(value));
  for (let at = out.length - 1; at >= 0; at--, rest >>= 8n) out[at] = Number(rest & 255n);
  return out;
}

export class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  take(count) {
    need(this.at + count <= this.bytes.length, `${count} bytes expected, the record ends`);
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }
  big(bits) {
    let value = 0n;
    for (const byte of this.take(bits / 8)) value = (value << 8n) | BigInt(byte);
    return value;
  }
  u8() { return this.take(1)[0]; }
  u16() { return Number(this.big(16)); }
  u32() { return Number(this.big(32)); }
  u64() { return this.big(64); }
  end() { need(this.at === this.bytes.length, `${this.bytes.length - this.at} bytes left over`); }
}

/** Decode all of `bytes` with `read(reader)`; bytes left over are a WireError (R1.1). */
export function whole(bytes, read) {
  const reader = new Reader(bytes);
  const value = read(reader);
  reader.end();
  return value;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
export function text(bytes) {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new WireError("not UTF-8");
  }
}

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
export function base58Encode(bytes) {
  let value = bytes.length ? BigInt("0x" + hex(bytes)) : 0n;
  let out = "";
  for (; value > 0n; value /= 58n) out = BASE58[Number(value % 58n)] + out;
  for (const byte of bytes) {
    if (byte !== 0) break;
    out = "1" + out;
  }
  return out;
}
export function base58Decode(string) {
  need(string.length <= 128, "too long for a peer id");
  let value = 0n;
  for (const char of string) {
    const digit = BASE58.indexOf(char);
    need(digit >= 0, `${JSON.stringify(char)} is not base58`);
    value = value * 58n + BigInt(digit);
  }
  let digits = value === 0n ? "" : value.toString(16);
  if (digits.length % 2) digits = "0" + digits;
  const zeros = string.length - string.replace(/^1+/, "").length;
  return Buffer.concat([Buffer.alloc(zeros), Buffer.from(digits, "hex")]);
}

const PEER_PREFIX = Buffer.from("002408011220", "hex");
export const peerId = (account) => base58Encode(Buffer.concat([PEER_PREFIX, account]));
/** The 32 bytes in a peer id; whether they are a strict key is ed25519.mjs's question. */
export function accountOfPeerId(string) {
  const bytes = base58Decode(string);
  need(bytes.length === 38 && bytes.subarray(0, 6).equals(PEER_PREFIX), "not an Ed25519 peer id");
  return bytes.subarray(6);
}

const ITEMS_MAX = 65536;
const DEPTH_MAX = 16;
const MESSAGE_MAX = 8 * 1024 * 1024;

/** msgpack (R1.4): maps become Map, binaries Buffer, integers BigInt, floats Number. */
export function unpack(bytes, itemsMax = ITEMS_MAX) {
  need(bytes.length <= MESSAGE_MAX, "message too long");
  return whole(bytes, (reader) => {
    reader.room = itemsMax;
    return item(reader, 0);
  });
}
function item(r, depth) {
  need(depth < DEPTH_MAX, "nested too deep");
  const t = r.u8();
  if (t < 0x80) return BigInt(t);
  if (t >= 0xe0) return BigInt(t - 256);
  if (t < 0x90) return map(r, t & 15, depth);
  if (t < 0xa0) return list(r, t & 15, depth);
  if (t < 0xc0) return text(r.take(t & 31));
  switch (t) {
    case 0xc0: return null;
    case 0xc2: return false;
    case 0xc3: return true;
    case 0xc4: return Buffer.from(r.take(r.u8()));
    case 0xc5: return Buffer.from(r.take(r.u16()));
    case 0xc6: return Buffer.from(r.take(r.u32()));
    case 0xca: return r.take(4).readFloatBE();
    case 0xcb: return r.take(8).readDoubleBE();
    case 0xcc: return BigInt(r.u8());
    case 0xcd: return r.big(16);
    case 0xce: return r.big(32);
    case 0xcf: return r.u64();
    case 0xd0: return BigInt.asIntN(8, r.big(8));
    case 0xd1: return BigInt.asIntN(16, r.big(16));
    case 0xd2: return BigInt.asIntN(32, r.big(32));
    case 0xd3: return BigInt.asIntN(64, r.big(64));
    case 0xd9: return text(r.take(r.u8()));
    case 0xda: return text(r.take(r.u16()));
    case 0xdb: return text(r.take(r.u32()));
    case 0xdc: return list(r, r.u16(), depth);
    case 0xdd: return list(r, r.u32(), depth);
    case 0xde: return map(r, r.u16(), depth);
    case 0xdf: return map(r, r.u32(), depth);
    default: throw new WireError(`msgpack type ${t.toString(16)} is not allowed`);
  }
}
function charge(r, count) {
  r.room -= count;
  need(r.room >= 0, "too many items");
}
function list(r, count, depth) {
  charge(r, count);
  const out = [];
  while (out.length < count) out.push(item(r, depth + 1));
  return out;
}
function map(r, count, depth) {
  charge(r, count);
  const out = new Map();
  for (let left = count; left > 0; left--) {
    const key = item(r, depth + 1);
    need(typeof key === "string", "a map key is not text");
    need(!out.has(key), `key ${key} twice`);
    out.set(key, item(r, depth + 1));
  }
  return out;
}

/** Shortest msgpack of plain values: only to reproduce SPEC.md's example messages. */
export function pack(value) {
  const head = (tiny, tinyMax, codes, count) => {
    if (tiny !== null && count < tinyMax) return Buffer.from([tiny | count]);
    const [one, two, four] = codes;
    if (one !== null && count < 256) return Buffer.from([one, count]);
    return count < 65536 ? Buffer.concat([Buffer.from([two]), u(16, count)])
      : Buffer.concat([Buffer.from([four]), u(32, count)]);
  };
  if (value === null) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === "string") {
    const bytes = Buffer.from(value);
    return Buffer.concat([head(0xa0, 32, [0xd9, 0xda, 0xdb], bytes.length), bytes]);
  }
  if (Buffer.isBuffer(value)) return Buffer.concat([head(null, 0, [0xc4, 0xc5, 0xc6], value.length), value]);
  if (typeof value === "number" || typeof value === "bigint") {
    const n = BigInt(value);
    need(n >= 0n, "no example packs a negative integer");
    if (n < 128n) return Buffer.from([Number(n)]);
    if (n < 256n) return Buffer.concat([Buffer.from([0xcc]), u(8, n)]);
    if (n < 65536n) return Buffer.concat([Buffer.from([0xcd]), u(16, n)]);
    if (n < 2n ** 32n) return Buffer.concat([Buffer.from([0xce]), u(32, n)]);
    return Buffer.concat([Buffer.from([0xcf]), u(64, n)]);
  }
  if (Array.isArray(value)) {
    return Buffer.concat([head(0x90, 16, [null, 0xdc, 0xdd], value.length), ...value.map(pack)]);
  }
  const pairs = Object.entries(value);
  return Buffer.concat([
    head(0x80, 16, [null, 0xde, 0xdf], pairs.length),
    ...pairs.flatMap(([key, inner]) => [pack(key), pack(inner)]),
  ]);
}
