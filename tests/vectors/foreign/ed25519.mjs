// Keys and the strict signature rule (SPEC.md §2). OpenSSL does the equation of R2.5, which is the
// cofactorless one with R compared as bytes; everything it is lax about is checked here first.
import { createPrivateKey, createPublicKey, sign as nodeSign, verify as nodeVerify } from "node:crypto";
import { ascii, need, u } from "./wire.mjs";

const P = 2n ** 255n - 19n;
const ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;
const SMALL_Y = new Set([
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]);

const little = (bytes) => BigInt("0x" + Buffer.from(bytes).reverse().toString("hex"));

function power(base, exponent) {
  let out = 1n;
  for (let b = base % P, e = exponent; e > 0n; e >>= 1n, b = (b * b) % P) if (e & 1n) out = (out * b) % P;
  return out;
}
const D = (P - ((121665n * power(121666n, P - 2n)) % P)) % P;

/** Whether some point of the curve has this y (x² = (y² − 1) / (dy² + 1) is a square). */
export function onCurve(y) {
  const square = ((y * y - 1n + P) % P) * power((D * y * y + 1n) % P, P - 2n) % P;
  return square === 0n || power(square, (P - 1n) / 2n) === 1n;
}

/** R2.5 for A or R: canonical y, not of small order. */
function strictPoint(bytes) {
  const y = Buffer.from(bytes);
  y[31] &= 127;
  return little(y) < P && !SMALL_Y.has(y.toString("hex"));
}
export function strictKey(bytes) {
  return bytes.length === 32 && strictPoint(bytes);
}
export function needKey(bytes, what) {
  need(strictKey(bytes), `${what} is not a strict key`);
  return bytes;
}

const known = new Map(); // hex of a public key → node's key object
function publicKey(account) {
  const name = account.toString("hex");
  let key = known.get(name);
  if (!key) {
    key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: account.toString("base64url") }, format: "jwk" });
    known.set(name, key);
  }
  return key;
}

export function verifyBytes(account, message, signature) {
  if (!strictKey(account) || signature.length !== 64) return false;
  if (!strictPoint(signature.subarray(0, 32)) || little(signature.subarray(32)) >= ORDER) return false;
  return nodeVerify(null, message, publicKey(Buffer.from(account)), signature);
}

export const KIND = {
  ENTRY: 1, PROPOSAL: 2, NOTAR: 3, SKIP: 4, FINAL: 5, VOUCHER: 6, ENVELOPE: 7, TERMS: 8, RECEIPT: 9, HELLO: 10,
  DECREE: 11, VERDICT: 12, REKEY: 13,
};
/** R2.3. */
export const signingBytes = (kind, networkId, body) => Buffer.concat([ascii("millrace/1\0"), u(8, kind), networkId, body]);

const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");
export class SigningKey {
  constructor(seed) {
    this.key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
    this.account = Buffer.from(createPublicKey(this.key).export({ format: "jwk" }).x, "base64url");
  }
  sign(kind, networkId, body) {
    return nodeSign(null, signingBytes(kind, networkId, body), this.key);
  }
}
