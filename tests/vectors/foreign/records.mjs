// Decoders and checks of what SPEC.md §3, §6.9, §7, §8, §10, §12 and §13 put into bytes.
import { isIPv6 } from "node:net";
import { KIND, needKey, signingBytes, strictKey, verifyBytes } from "./ed25519.mjs";
import {
  AMOUNT_MAX, I63_MAX, Reader, Refused, WireError, ZERO32, accountOfPeerId, ascii, hex, need, sha256, text, u, unpack, whole,
} from "./wire.mjs";

const i63 = (value, what) => (need(value <= I63_MAX, `${what} is over 2^63 - 1`), value);
const amount = (value, least, what) => (need(value >= least && value <= AMOUNT_MAX, `${what} is out of bounds`), value);

// ---- genesis (§8.1) ----

export function decodeGenesis(bytes) {
  const genesis = whole(bytes, (r) => {
    need(r.u8() === 2, "version of the genesis record");
    const name = r.take(r.u8()).toString("latin1");
    need(/^[\x21-\x7e]([\x20-\x7e]{0,62}[\x21-\x7e])?$/.test(name), "name");
    const created = i63(r.u64(), "created_ms");
    const slotTimeout = r.u32();
    need(slotTimeout >= 1 && slotTimeout <= 600000, "slot_timeout_ms");
    const feeMin = amount(r.u64(), 0n, "fee_min");
    const disputeFee = amount(r.u64(), 0n, "dispute_fee");
    const witnesses = Array.from({ length: counted(r.u16(), 1, 64) }, () => needKey(r.take(32), "a witness"));
    const limits = Array.from({ length: counted(r.u16(), 0, 4096) }, () => [needKey(r.take(32), "an account"), r.u64()]);
    const needed = r.u8();
    const governors = Array.from({ length: counted(r.u8(), 0, 16) }, () => needKey(r.take(32), "a governor"));
    counted(needed, governors.length ? 1 : 0, governors.length);
    return { name, created, slotTimeout, feeMin, disputeFee, witnesses, limits, needed, governors };
  });
  need(new Set(genesis.witnesses.map(hex)).size === genesis.witnesses.length, "a witness twice");
  genesis.governors.forEach((account, at) => {
    need(at === 0 || Buffer.compare(genesis.governors[at - 1], account) < 0, "governors out of order");
  });
  let sum = 0n;
  genesis.limits.forEach(([account, limit], at) => {
    need(limit >= 1n && limit <= 2n ** 62n, "a limit is out of bounds");
    need(at === 0 || Buffer.compare(genesis.limits[at - 1][0], account) < 0, "limits out of order");
    sum += limit;
  });
  need(sum <= 2n ** 62n, "limits together");
  const networkId = sha256(ascii("millrace/1 genesis\0"), bytes);
  return { ...genesis, ...committeeOf(networkId, 0, genesis.witnesses) };
}
/** R8.5: the witnesses of an epoch, in leader order, and how many of them it takes. */
export function committeeOf(networkId, epoch, witnesses) {
  const n = witnesses.length;
  const leader = (slot) => witnesses[Number(slot % BigInt(n))];
  return { networkId, epoch, witnesses, faults: Math.floor((n - 1) / 3), quorum: Math.floor((2 * n) / 3) + 1, leader };
}
function counted(value, least, most) {
  need(value >= least && value <= most, `a count of ${value}`);
  return value;
}

// ---- entries and vouchers (§3) ----

const TYPES = {
  1: "TRANSFER", 2: "LOCK", 3: "CLAIM", 4: "EXPIRE", 5: "RELEASE", 6: "DISPUTE", 7: "VERDICT", 8: "LIMIT", 9: "REKEY", 10: "ROTATE", 11: "PARAM",
};
const DISPUTE_MAX = 2592000000n;
const DELTA_MAX = 2n ** 62n;
const number = (value, what) => (need(i63(value, what) >= 1n, `${what} 0`), value);
const optionalKey = (bytes, what) => (bytes.equals(ZERO32) ? bytes : needKey(bytes, what));

/** R3.13: [place, signature] of each bit that is set. */
function readApprovals(r, listed = 16) {
  const bits = r.u16();
  need(bits < 2 ** listed, "an approval of nobody on the list");
  const places = Array.from({ length: 16 }, (_, at) => at).filter((at) => (bits >> at) & 1);
  return places.map((at) => [at, r.take(64)]);
}
/** What a governor signs (R3.15) is in the record: all behind the head but the approvals. */
const PAYLOADS = {
  TRANSFER: (r) => ({ to: needKey(r.take(32), "to"), amount: amount(r.u64(), 1n, "amount"), memoHash: r.take(32) }),
  LOCK(r) {
    const lock = { payee: needKey(r.take(32), "payee"), amount: amount(r.u64(), 1n, "amount"), expiry: i63(r.u64(), "expiry") };
    Object.assign(lock, { disputeMs: r.u64(), arbitersHash: r.take(32), needed: r.u8(), bps: r.u16() });
    if (lock.disputeMs || lock.needed || lock.bps || !lock.arbitersHash.equals(ZERO32)) {
      need(lock.disputeMs >= 1n && lock.disputeMs <= DISPUTE_MAX, "dispute_ms");
      need(!lock.arbitersHash.equals(ZERO32), "arbiters_hash");
      need(lock.needed >= 1 && lock.needed <= 16 && lock.bps <= 10000, "arbiters_needed, default_bps");
    }
    return { ...lock, termsHash: r.take(32) };
  },
  CLAIM(r) {
    const claim = { lockId: r.take(32), cumulative: amount(r.u64(), 0n, "cumulative"), voucherSignature: r.take(64) };
    need(claim.cumulative > 0n || claim.voucherSignature.every((byte) => byte === 0), "a claim of 0 with a voucher");
    return claim;
  },
  EXPIRE: (r) => ({ lockId: r.take(32) }),
  RELEASE: (r) => ({ lockId: r.take(32) }),
  DISPUTE: (r) => ({ lockId: r.take(32), evidenceHash: r.take(32) }),
  VERDICT(r) {
    const verdict = { lockId: r.take(32), payeeAmount: amount(r.u64(), 0n, "payee_amount") };
    verdict.arbiters = Array.from({ length: counted(r.u8(), 1, 16) }, () => needKey(r.take(32), "an arbiter"));
    verdict.arbiters.forEach((account, at) => need(at === 0 || Buffer.compare(verdict.arbiters[at - 1], account) < 0, "arbiters out of order"));
    return { ...verdict, approvals: readApprovals(r, verdict.arbiters.length) };
  },
  LIMIT(r) {
    const limit = { beneficiary: needKey(r.take(32), "beneficiary"), delta: BigInt.asIntN(64, r.u64()), decree: i63(r.u64(), "decree") };
    need(limit.delta !== 0n && limit.delta >= -DELTA_MAX && limit.delta <= DELTA_MAX, "delta");
    limit.approvals = readApprovals(r);
    need(limit.decree > 0n || !limit.approvals.length, "a delegation with approvals");
    return { ...limit, decreed: Buffer.concat([limit.beneficiary, u(64, limit.delta)]) };
  },
  REKEY: (r) => ({ newKey: needKey(r.take(32), "new_key"), recovery: optionalKey(r.take(32), "recovery"), proof: r.take(64) }),
  ROTATE(r) {
    const decree = number(r.u64(), "decree");
    const witnesses = Array.from({ length: counted(r.u8(), 1, 64) }, () => needKey(r.take(32), "a witness"));
    need(new Set(witnesses.map(hex)).size === witnesses.length, "a witness twice");
    return { decree, witnesses, decreed: Buffer.concat([u(8, witnesses.length), ...witnesses]), approvals: readApprovals(r) };
  },
  PARAM(r) {
    const decree = number(r.u64(), "decree");
    const from = r.at;
    const param = { fromHeight: number(r.u64(), "from_height"), params: readParams(r) };
    return { decree, ...param, decreed: r.bytes.subarray(from, r.at), approvals: readApprovals(r) };
  },
};
export function readParams(r) {
  const params = { version: counted(r.u16(), 1, 65535), feeMin: amount(r.u64(), 0n, "fee_min"), disputeFee: amount(r.u64(), 0n, "dispute_fee") };
  return { ...params, slotTimeout: counted(r.u32(), 1, 600000) };
}
export function readEntry(r) {
  const from = r.at;
  const code = r.u8();
  const type = TYPES[code];
  need(type, "no such type of entry");
  const head = { type, code, account: needKey(r.take(32), "the account"), seq: number(r.u64(), "seq") };
  const entry = { ...head, notAfter: i63(r.u64(), "not_after"), fee: amount(r.u64(), 0n, "fee"), ...PAYLOADS[type](r) };
  entry.body = r.bytes.subarray(from, r.at);
  entry.signature = r.take(64);
  entry.bytes = r.bytes.subarray(from, r.at);
  return entry;
}
/** R3.15 and R3.17: what a governor, an arbiter, a new key signs. */
export const decreeBytes = (entry, networkId) =>
  signingBytes(KIND.DECREE, networkId, Buffer.concat([u(8, entry.code), u(64, entry.decree), entry.decreed]));
export const verdictBytes = (entry, networkId) =>
  signingBytes(KIND.VERDICT, networkId, Buffer.concat([entry.lockId, u(64, entry.payeeAmount)]));
export const rekeyProved = (entry, networkId) =>
  verifyBytes(entry.newKey, signingBytes(KIND.REKEY, networkId, Buffer.concat([entry.account, u(64, entry.seq), entry.newKey, entry.recovery])), entry.proof);
export const arbitersHash = (accounts) => sha256(ascii("millrace/1 arbiters\0"), u(8, accounts.length), ...accounts);
export const decodeEntry = (bytes) => whole(bytes, readEntry);
export const entryId = (entry, networkId) => sha256(signingBytes(KIND.ENTRY, networkId, entry.body));
export const entrySigned = (entry, networkId, key = entry.account) =>
  verifyBytes(key, signingBytes(KIND.ENTRY, networkId, entry.body), entry.signature);

export const decodeVoucher = (bytes) =>
  whole(bytes, (r) => ({ lockId: r.take(32), cumulative: amount(r.u64(), 1n, "cumulative"), signature: r.take(64) }));
export const voucherSigned = (voucher, payer, networkId) =>
  verifyBytes(payer, signingBytes(KIND.VOUCHER, networkId, Buffer.concat([voucher.lockId, u(64, voucher.cumulative)])), voucher.signature);

// ---- headers, votes, certificates, final blocks (§6.9) ----

export function readHeader(r) {
  const from = r.at;
  need(r.u8() === 1, "version of the header");
  const header = { epoch: r.u32(), slot: i63(r.u64(), "slot"), height: r.u64(), parentSlot: r.u64(), parentHash: r.take(32) };
  header.time = i63(r.u64(), "time");
  header.treeSize = i63(r.u64(), "tree_size");
  header.logRoot = r.take(32);
  header.stateRoot = r.take(32);
  header.count = r.u32();
  need(header.parentSlot < header.slot, "parent_slot");
  need(header.height >= 1n && header.height <= header.slot, "height");
  need(header.count <= 1000 && BigInt(header.count) <= header.treeSize, "count");
  need(header.height % 1000n === 0n || header.stateRoot.equals(ZERO32), "state_root at this height");
  const first = header.height === 1n;
  need((header.parentSlot === 0n) === first, "parent_slot 0 is the first block's alone");
  need(header.parentHash.equals(ZERO32) === first, "a zero parent_hash is the first block's alone");
  header.bytes = r.bytes.subarray(from, r.at);
  return header;
}
export const headerHash = (header, networkId) => sha256(signingBytes(KIND.PROPOSAL, networkId, header.bytes));

function readBallot(r) {
  const ballot = { kind: r.u8(), epoch: r.u32(), slot: i63(r.u64(), "slot"), blockHash: r.take(32) };
  need(ballot.kind >= KIND.NOTAR && ballot.kind <= KIND.FINAL, "kind of a vote");
  need(ballot.slot >= 1n, "slot 0");
  need(ballot.blockHash.equals(ZERO32) === (ballot.kind === KIND.SKIP), "block hash of a vote");
  return ballot;
}
const ballotBytes = (b, networkId) =>
  signingBytes(b.kind, networkId, Buffer.concat([u(32, b.epoch), u(64, b.slot), b.blockHash]));
export const decodeVote = (bytes) =>
  whole(bytes, (r) => ({ ...readBallot(r), witness: r.take(32), signature: r.take(64) }));
export const voteSigned = (vote, networkId) => verifyBytes(vote.witness, ballotBytes(vote, networkId), vote.signature);

export function readCertificate(r) {
  const certificate = { ...readBallot(r), signers: [], signatures: [] };
  const bits = r.u64();
  for (let at = 0; at < 64; at++) if ((bits >> BigInt(at)) & 1n) certificate.signers.push(at);
  need(certificate.signers.length > 0, "no signer");
  certificate.signatures = certificate.signers.map(() => r.take(64));
  return certificate;
}
export const decodeCertificate = (bytes) => whole(bytes, readCertificate);
/** R6.24: null, or what is wrong with it. */
export function certificateFault(certificate, genesis) {
  if (certificate.signers.length < genesis.quorum) return "quorum";
  if (certificate.signers.some((at) => at >= genesis.witnesses.length)) return "stranger";
  const signed = ballotBytes(certificate, genesis.networkId);
  const good = certificate.signers.every((at, i) => verifyBytes(genesis.witnesses[at], signed, certificate.signatures[i]));
  return good ? null : "signature";
}

export function readFinalBlock(r) {
  const header = readHeader(r);
  const from = r.at;
  const entries = Array.from({ length: header.count }, () => readEntry(r));
  need(r.at - from <= 244000, "entries of more than 244,000 bytes");
  const certificate = readCertificate(r);
  need(certificate.kind !== KIND.SKIP, "a SKIP certificate finalises nothing");
  need(certificate.epoch === header.epoch && certificate.slot === header.slot, "a certificate of another slot");
  const last = entries.at(-1)?.type === "ROTATE";
  return { header, entries, certificate, closing: last && certificate.kind === KIND.NOTAR ? readClosing(r) : null };
}
/** R6.26. */
function readClosing(r) {
  const headers = Array.from({ length: counted(r.u16(), 1, 512) }, () => readHeader(r));
  need(headers.every((each) => each.count === 0 && each.stateRoot.equals(ZERO32)), "a void block with entries or a state");
  const certificate = readCertificate(r);
  const { epoch, slot } = headers.at(-1);
  need(certificate.kind === KIND.FINAL && certificate.epoch === epoch && certificate.slot === slot, "a closing's certificate of another kind or slot");
  return { headers, certificate };
}
/** R6.26: the hash that the closing's certificate must be for, or null if its headers are not those of void blocks. */
export function closedBy({ header, closing }, networkId) {
  let below = header;
  for (const next of closing.headers) {
    const empty = next.treeSize === header.treeSize && next.logRoot.equals(header.logRoot);
    if (!empty || next.epoch !== header.epoch || next.time < below.time || !follows(next, below, networkId)) return null;
    below = next;
  }
  return headerHash(below, networkId);
}
const follows = (next, below, networkId) =>
  next.height === below.height + 1n && next.parentSlot === below.slot && next.parentHash.equals(headerHash(below, networkId));
export const decodeFinalBlock = (bytes) => whole(bytes, readFinalBlock);

// ---- the Merkle log (§5) ----

export const EMPTY_ROOT = sha256();
export const leafHash = (bytes) => sha256(Buffer.from([0]), bytes);
export const nodeHash = (left, right) => sha256(Buffer.from([1]), left, right);

/** The growing log: one complete subtree per set bit of its size. */
export class Log {
  constructor() {
    this.size = 0n;
    this.peaks = [];
  }
  append(bytes) {
    let node = leafHash(bytes);
    for (let bits = this.size; bits & 1n; bits >>= 1n) node = nodeHash(this.peaks.pop(), node);
    this.peaks.push(node);
    this.size += 1n;
  }
  root() {
    if (!this.peaks.length) return EMPTY_ROOT;
    return this.peaks.reduceRight((right, left) => nodeHash(left, right));
  }
}

/** R5.3: the root that `path` leads to, or null when its length is wrong. */
export function inclusionRoot(leaf, index, size, path) {
  if (index >= size || leaf.length !== 32) return null; // R5.3
  let at = index;
  let last = size - 1n;
  let node = leaf;
  for (const sibling of path) {
    if (last === 0n || sibling.length !== 32) return null;
    if (at & 1n || at === last) {
      node = nodeHash(sibling, node);
      while (!(at & 1n) && at !== 0n) { at >>= 1n; last >>= 1n; }
    } else {
      node = nodeHash(node, sibling);
    }
    at >>= 1n;
    last >>= 1n;
  }
  return last === 0n ? node : null;
}

/** R5.4. */
export function consistent(oldSize, newSize, oldRoot, newRoot, proof) {
  if (oldSize > newSize || proof.some((node) => node.length !== 32)) return false;
  if (oldRoot.length !== 32 || newRoot.length !== 32) return false;
  if (oldSize === newSize) return proof.length === 0 && oldRoot.equals(newRoot);
  if (oldSize === 0n) return proof.length === 0 && oldRoot.equals(EMPTY_ROOT);
  const nodes = (oldSize & (oldSize - 1n)) === 0n ? [oldRoot, ...proof] : [...proof];
  if (!nodes.length) return false;
  let at = oldSize - 1n;
  let last = newSize - 1n;
  while (at & 1n) { at >>= 1n; last >>= 1n; }
  let [left, right] = [nodes[0], nodes[0]];
  for (const node of nodes.slice(1)) {
    if (last === 0n) return false;
    if (at & 1n || at === last) {
      left = nodeHash(node, left);
      right = nodeHash(node, right);
      while (!(at & 1n) && at !== 0n) { at >>= 1n; last >>= 1n; }
    } else {
      right = nodeHash(right, node);
    }
    at >>= 1n;
    last >>= 1n;
  }
  return last === 0n && left.equals(oldRoot) && right.equals(newRoot);
}

// ---- receipts and handovers (§7.1, §7.3) ----

function readPath(r) {
  const nodes = r.u8();
  need(nodes <= 64, "nodes in the path");
  return Array.from({ length: nodes }, () => r.take(32));
}
function readLeaf(r) {
  const entry = readEntry(r);
  return { entry, index: i63(r.u64(), "index"), path: readPath(r) };
}
export function readCertifiedHeader(r) {
  const from = r.at;
  const header = readHeader(r);
  const descendants = Array.from({ length: counted(r.u16(), 0, 512) }, () => readHeader(r));
  const certificate = readCertificate(r);
  const last = descendants.at(-1) ?? header;
  need(certificate.kind === KIND.FINAL && certificate.slot === last.slot, "a certificate of another kind or slot");
  need([certificate, ...descendants].every((each) => each.epoch === header.epoch), "two epochs");
  return { header, descendants, last, certificate, headBytes: r.bytes.subarray(from, r.at) };
}
export function readHandover(r) {
  const entry = readEntry(r);
  need(entry.type === "ROTATE", "a handover without ROTATE");
  const handover = { entry, path: readPath(r), ...readCertifiedHeader(r) };
  need(handover.header.count > 0, "a handover's block without entries");
  return handover;
}
export function decodeReceipt(bytes) {
  need(bytes.length <= 262144, "a receipt too long");
  return whole(bytes, (r) => {
    const receipt = { ...readLeaf(r), ...readCertifiedHeader(r) };
    receipt.handovers = Array.from({ length: r.u16() }, () => readHandover(r));
    receipt.rekeys = Array.from({ length: r.u8() }, () => readLeaf(r));
    need(receipt.rekeys.every(({ entry }) => entry.type === "REKEY"), "an entry among the REKEYs is none");
    return receipt;
  });
}
function inLog(leaf, header) {
  const root = inclusionRoot(leafHash(leaf.entry.bytes), leaf.index, header.treeSize, leaf.path);
  return root !== null && root.equals(header.logRoot);
}
function linked({ header, descendants, certificate }, networkId) {
  let below = header;
  for (const next of descendants) {
    if (!follows(next, below, networkId)) return false;
    below = next;
  }
  return certificate.blockHash.equals(headerHash(below, networkId));
}
/** R7.2, 1: the key that must have signed the entry. */
function signerOf({ entry, index, header, rekeys }, networkId) {
  let [key, recovery, from] = [entry.account, ZERO32, -1n];
  rekeys.forEach((rekey, at) => {
    const e = rekey.entry;
    const must = (condition) => { if (!condition) throw new Refused("rekey"); };
    must(e.account.equals(entry.account) && e.seq === BigInt(at + 1));
    must(from < rekey.index && rekey.index < index && inLog(rekey, header));
    must(entrySigned(e, networkId, recovery.equals(ZERO32) ? key : recovery));
    must(rekeyProved(e, networkId));
    [key, recovery, from] = [e.newKey, e.recovery, rekey.index];
  });
  if (entry.type !== "REKEY") return key;
  if (entry.seq !== BigInt(rekeys.length + 1)) throw new Refused("rekey");
  return recovery.equals(ZERO32) ? key : recovery;
}
/** R7.11: the committee that the handovers lead to, null if one of them does not hold. */
export function handedOver(committee, handovers) {
  for (const handover of handovers) {
    if (!handoverHolds(handover, committee)) return null;
    committee = committeeOf(committee.networkId, committee.epoch + 1, handover.entry.witnesses);
  }
  return committee;
}
export function handoverHolds(handover, committee) {
  const { entry, header, path } = handover;
  return inLog({ entry, index: header.treeSize - 1n, path }, header) && headFault(handover, committee) === null;
}
/** R7.2, 4 to 6, for a committee that is known: null, or what is wrong. */
export function headFault(head, committee) {
  if (head.header.epoch !== committee.epoch) return "epoch";
  return linked(head, committee.networkId) ? certificateFault(head.certificate, committee) : "block";
}
/** R7.2, in its order. */
export function verifyReceipt(receipt, genesis) {
  const { networkId } = genesis;
  if (!entrySigned(receipt.entry, networkId, signerOf(receipt, networkId))) throw new Refused("signature");
  if (!inLog(receipt, receipt.header)) throw new Refused("inclusion");
  if (!linked(receipt, networkId)) throw new Refused("block");
  const committee = handedOver(genesis, receipt.handovers);
  if (committee?.epoch !== receipt.header.epoch) throw new Refused("handover");
  const fault = certificateFault(receipt.certificate, committee);
  if (fault) throw new Refused("certificate", fault);
}

// ---- terms (§12.1) ----

const within = (value, least, most, what) => (need(value >= least && value <= most, `${what} is out of bounds`), value);
export const decodeTerms = (bytes) =>
  whole(bytes, (r) => {
    need(r.u8() === 1, "version of the terms");
    const terms = { buyer: needKey(r.take(32), "buyer"), worker: needKey(r.take(32), "worker") };
    need(!terms.buyer.equals(terms.worker), "buyer and worker are one");
    terms.jobId = r.take(32);
    terms.nonce = r.take(16);
    terms.moduleSha256 = r.take(32);
    terms.moduleBytes = within(r.u32(), 1, 16 * 2 ** 20, "module_bytes");
    terms.pricePerTfuel = within(r.u64(), 0n, 2n ** 40n, "price_per_tfuel");
    terms.amount = amount(r.u64(), 1n, "amount");
    terms.expiry = within(r.u64(), 1n, I63_MAX, "expiry");
    terms.fuelMax = within(r.u64(), 1n, 2n ** 56n, "fuel_max");
    terms.memoryBytesMax = within(r.u64(), 1n, 2n ** 40n, "memory_bytes_max");
    terms.wallMsMax = within(r.u32(), 1, 86400000, "wall_ms_max");
    terms.outputBytesMax = within(r.u32(), 0, 3 * 2 ** 20, "output_bytes_max");
    terms.windowUnits = within(r.u16(), 1, 256, "window_units");
    terms.replicas = within(r.u8(), 1, 3, "replicas");
    need(terms.amount >= cost(terms.fuelMax, terms.pricePerTfuel), "the amount does not pay for one unit");
    terms.bytes = bytes;
    return terms;
  });
/** R12.6. */
export function cost(fuel, price) {
  const whole_ = (fuel * price + 10n ** 12n - 1n) / 10n ** 12n;
  return whole_ > 1n ? whole_ : 1n;
}
const termsSigning = (terms, networkId) => signingBytes(KIND.TERMS, networkId, terms.bytes);
export const termsHash = (terms, networkId) => sha256(termsSigning(terms, networkId));
export const termsSigned = (terms, by, signature, networkId) => verifyBytes(by, termsSigning(terms, networkId), signature);

// ---- envelopes and adverts (§10) ----

const LIFE_MAX = 600000;
const SKEW = 300000n;
/** R10.7 without a book: decode, kind, time, signature, body. Throws Refused with its reason. */
export function openEnvelope(bytes, networkId, now) {
  let envelope;
  try {
    envelope = whole(bytes, (r) => {
      need(r.u8() === 1, "version of the envelope");
      const e = { kind: r.u8(), author: r.take(32), sequence: r.u64(), expires: r.u64(), lifetime: r.u32() };
      need(e.lifetime >= 1 && e.lifetime <= LIFE_MAX, "lifetime_ms");
      const size = r.u16();
      need(size <= 16384, "body size");
      e.body = r.take(size);
      e.signed = r.bytes.subarray(0, r.at);
      e.signature = r.take(64);
      return e;
    });
  } catch (error) {
    throw error instanceof WireError ? new Refused("malformed", error.message) : error;
  }
  if (envelope.kind !== 1 && envelope.kind !== 2) throw new Refused("wrong-kind");
  if (envelope.expires + SKEW <= now) throw new Refused("expired");
  if (envelope.expires > now + BigInt(envelope.lifetime) + SKEW) throw new Refused("future");
  const signed = signingBytes(KIND.ENVELOPE, networkId, envelope.signed);
  if (!verifyBytes(envelope.author, signed, envelope.signature)) throw new Refused("forged");
  envelope.id = sha256(envelope.signed);
  try {
    if (envelope.kind === 2) need(envelope.body.length === 0, "a withdrawal with a body");
    else envelope.advert = decodeAdvert(envelope.body, envelope.author);
  } catch (error) {
    throw error instanceof WireError ? new Refused("bad-body", error.message) : error;
  }
  return envelope;
}

const TOKEN = /^[a-z][a-z0-9_.-]{0,23}$/;
const PRINTABLE = /^[^\p{C}\p{Z}]*$/u; // after its plain spaces are gone
const integer = (most) => (value) => typeof value === "bigint" && value >= 0n && value <= most;
const label = (most) => (value) => typeof value === "string" && Buffer.byteLength(value) <= most && PRINTABLE.test(value.replaceAll(" ", ""));
const table = (good) => (value) =>
  value instanceof Map && value.size <= 16 && [...value].every(([key, inner]) => TOKEN.test(key) && good(inner));
const ADVERT = {
  kinds: [undefined, (v) => Array.isArray(v) && v.length <= 16 && new Set(v).size === v.length && v.every((k) => typeof k === "string" && TOKEN.test(k))],
  owner: [undefined, (v) => Buffer.isBuffer(v) && strictKey(v)],
  slots_free: [undefined, integer(4096n)],
  runtimes: [new Map(), table(label(64))],
  cores: [1n, integer(4096n)],
  memory_bytes: [0n, integer(2n ** 50n)],
  rates: [new Map(), table(integer(2n ** 62n))],
  price_per_tfuel: [0n, integer(AMOUNT_MAX)],
  price_core_hour: [0n, integer(AMOUNT_MAX)],
  name: ["", label(32)],
  region: ["", label(32)],
  watts: [0n, integer(100000n)],
  carbon_g_per_kwh: [0n, integer(5000n)],
  relayed: [false, (v) => typeof v === "boolean"],
};
export function decodeAdvert(body, author) {
  const map = unpack(body, 1024);
  need(map instanceof Map && map.size <= 64, "not a map of at most 64 fields");
  const advert = {};
  for (const [name, [fallback, good]] of Object.entries(ADVERT)) {
    const value = map.has(name) ? map.get(name) : fallback;
    need(value !== undefined && good(value), name);
    advert[name] = value;
  }
  advert.addresses = map.has("addresses") ? map.get("addresses") : [];
  need(Array.isArray(advert.addresses) && advert.addresses.length <= 8, "addresses");
  for (const address of advert.addresses) {
    need(typeof address === "string", "an address is not text");
    need(parseAddress(address).peer?.equals(author), "an address of another peer");
  }
  return advert;
}

/** R11.1: { peer: the account at its end, or null, relayed }. */
export function parseAddress(address) {
  need(address.length <= 256 && /^[\x21-\x7e]+$/.test(address), "not an address");
  const parts = address.split("/");
  need(parts[0] === "" && parts.length >= 5, "not an address");
  const [, family, host, transport, port, ...rest] = parts;
  const hosts = { ip4: ip4, ip6: (h) => !h.includes("%") && isIPv6(h), dns: dnsName, dns4: dnsName, dns6: dnsName };
  need(Object.hasOwn(hosts, family) && hosts[family](host) && transport === "tcp", "host or transport");
  need(/^[1-9][0-9]{0,4}$/.test(port) && Number(port) <= 65535, "port");
  if (!rest.length) return { peer: null, relayed: false };
  const relayed = rest.length === 5;
  need(rest[0] === "p2p" && (rest.length === 2 || (relayed && rest[2] === "p2p-circuit" && rest[3] === "p2p")), "not an address");
  const accounts = [rest[1], ...(relayed ? [rest[4]] : [])].map((id) => needKey(accountOfPeerId(id), "a peer id"));
  return { peer: accounts.at(-1), relayed };
}
const ip4 = (host) => /^(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){3}$/.test(host) && host.split(".").every((n) => Number(n) < 256);
const dnsName = (host) => /^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/.test(host);

// ---- tasks and outcomes (§13) ----

const TASK_LIMITS = { fuel: 10n ** 14n, memory: 2n ** 31n, wall: 3600000, output: 2 * 2 ** 20 };
const clean = (bytes) => (need(!bytes.includes(0), "NUL in a text"), text(bytes));
export const decodeTask = (bytes) =>
  whole(bytes, (r) => {
    need(r.u8() === 1 && r.u8() === 1, "version or kind of the task");
    const task = { moduleSha256: r.take(32), fuel: within(r.u64(), 1n, TASK_LIMITS.fuel, "fuel") };
    task.memory = within(r.u64(), 1n, TASK_LIMITS.memory, "memory_bytes");
    task.wallMs = within(r.u32(), 1, TASK_LIMITS.wall, "wall");
    task.output = within(r.u32(), 1, TASK_LIMITS.output, "output_bytes");
    task.entry = clean(r.take(within(r.u16(), 1, 256, "entry")));
    const count = within(r.u16(), 0, 256, "arguments");
    let room = 65536;
    task.args = [];
    while (task.args.length < count) {
      const size = r.u32();
      room -= size + 4;
      need(room >= 0, "arguments together");
      task.args.push(clean(r.take(size)));
    }
    task.stdin = r.take(within(r.u32(), 0, 2 * 2 ** 20, "stdin"));
    need(task.entry === "_start" || !task.stdin.length, "stdin for an export");
    return task;
  });
export const taskDigest = (bytes) => sha256(ascii("millrace/1\0task\0"), bytes);

export const decodeOutcome = (bytes) =>
  whole(bytes, (r) => {
    need(r.u8() === 1, "version of the outcome");
    const outcome = { status: within(r.u8(), 0, 8, "status"), exitCode: r.u32() };
    outcome.fuel = within(r.u64(), 0n, TASK_LIMITS.fuel, "fuel");
    outcome.cpu = within(r.u64(), 0n, 10n ** 15n - 1n, "CPU");
    outcome.wall = within(r.u64(), 0n, 10n ** 15n - 1n, "wall");
    outcome.memory = r.u64();
    outcome.output = r.take(within(r.u32(), 0, 2 * 2 ** 20, "output"));
    outcome.stderr = r.take(within(r.u32(), 0, 16384, "stderr"));
    return outcome;
  });
export const outcomeDigest = (o) =>
  sha256(ascii("millrace/1\0outcome\0"), u(8, o.status), u(32, o.exitCode), u(64, o.fuel), o.output);
/** R14.1. */
export const commitment = (unit, peer, salt, digest) => sha256(ascii("millrace/1\0commit\0"), unit, peer, salt, digest);
