// An audit of final blocks from genesis, a third reading of SPEC.md §4, §6.5 and §7.2.
import { verifyBytes } from "./ed25519.mjs";
import {
  Log, arbitersHash, certificateFault, closedBy, committeeOf, decodeFinalBlock, decreeBytes, entryId, entrySigned, headerHash, rekeyProved,
  verdictBytes, voucherSigned,
} from "./records.mjs";
import { WireError, ZERO32, ascii, hex, sha256, u, unhex } from "./wire.mjs";

const LOCK_SPAN_MAX = 31622400000n;
const VALID_SPAN_MAX = 2592000000n;
const CHUNK_BYTES = 65536;
const [OPEN, DISPUTED, CLOSED] = [1, 2, 0];

export class Violation extends Error {
  constructor(rule, where, detail = "") {
    super(detail || rule);
    Object.assign(this, { rule, where });
  }
}

const HOUR = 3600000n;
const IDLE_SPAN = 2678400000n;
const LIMITS_MAX = 2n ** 62n;
const AHEAD_MAX = 1000000n;
const LOCKS_MAX = 1024;
const KNOWN_VERSION = 1;

/** The books: what a snapshot holds (R4.16), and how entries change it (§4.2, §4.3). */
export class Books {
  constructor(genesis) {
    const { networkId, witnesses, feeMin, disputeFee, slotTimeout } = genesis;
    this.genesis = genesis;
    this.decrees = 0n;
    this.params = { version: 1, feeMin, disputeFee, slotTimeout };
    this.pending = null; // { fromHeight, params }
    this.committee = committeeOf(networkId, 0, witnesses);
    this.accounts = new Map(); // hex → { balance, limit, seq, last, active }
    this.keys = new Map(); // hex → { key, recovery, rekeys, last, rekeyed }
    this.delegations = new Map(); // hex of sponsor and beneficiary → amount
    this.locks = new Map(); // hex of the id → { payer, payee, payerKey, amount, expiry, …, status }
    this.limits = 0n; // of all accounts together
    for (const [account, limit] of genesis.limits) this.line(account, limit);
  }

  account(bytes) {
    const name = hex(bytes);
    if (!this.accounts.has(name)) this.accounts.set(name, { balance: 0n, limit: 0n, seq: 0n, last: ZERO32, active: 0n });
    return this.accounts.get(name);
  }
  line(account, by) {
    this.account(account).limit += by;
    this.limits += by;
  }
  keyOf(account) {
    return this.keys.get(hex(account))?.key ?? account;
  }
  /** R4.28. */
  signer(entry) {
    const line = this.keys.get(hex(entry.account));
    if (entry.type === "REKEY" && line && !line.recovery.equals(ZERO32)) return line.recovery;
    return line?.key ?? entry.account;
  }

  /** An entry of a block of this height, time, epoch and leader; `must(condition, rule, reason)` throws. */
  entry(entry, at, must) {
    const { networkId } = this.genesis;
    must(entrySigned(entry, networkId, this.signer(entry)), "signature", "bad_signature");
    must(at.epoch === this.committee.epoch, "epoch", "epoch_over");
    const own = this.account(entry.account);
    const keys = this.keys.get(hex(entry.account));
    const rekey = entry.type === "REKEY";
    must(entry.seq === (rekey ? keys?.rekeys ?? 0n : own.seq) + 1n, "sequence");
    must(at.time <= entry.notAfter, "not_after", "too_late");
    must(entry.notAfter <= at.time + VALID_SPAN_MAX, "not_after", "valid_too_long");
    const recovers = rekey && keys && !keys.recovery.equals(ZERO32);
    const { feeMin, disputeFee } = this.params;
    const least = entry.type === "DISPUTE" && disputeFee > feeMin ? disputeFee : feeMin;
    must(recovers || entry.fee >= least, "fee", "fee_too_low");
    const id = entryId(entry, networkId);
    const moves = []; // [account, amount], and own limits of the entry: applied when nothing is wrong
    const { newLimit, effect } = this[entry.type](entry, { ...at, id, own, keys, moves }, must);
    moves.push([own, -entry.fee]);
    const gain = moves.reduce((sum, [account, by]) => (account === own ? sum + by : sum), 0n);
    must(own.balance + gain >= -(newLimit ?? own.limit), "balance", "insufficient");
    for (const [account, by] of moves) account.balance += by;
    effect();
    if (!rekey) Object.assign(own, { seq: entry.seq, last: id });
    own.active = at.time;
    this.account(at.leader).balance += entry.fee;
    if (entry.decree) this.decrees = entry.decree;
  }

  TRANSFER(entry, { own, moves }, must) {
    must(!entry.to.equals(entry.account), "payment", "self_payment");
    moves.push([own, -entry.amount], [this.account(entry.to), entry.amount]);
    return { effect() {} };
  }
  LOCK(entry, { id, own, moves, time }, must) {
    must(!entry.payee.equals(entry.account), "payment", "self_payment");
    must(time < entry.expiry, "lock", "expiry_passed");
    must(entry.expiry <= time + LOCK_SPAN_MAX, "lock", "expiry_too_far");
    const held = [...this.locks.values()].filter((lock) => lock.status !== CLOSED && lock.payer.equals(entry.account));
    must(held.length < LOCKS_MAX, "lock", "too_many_locks");
    moves.push([own, -entry.amount]);
    const { account: payer, payee, amount, expiry, disputeMs, arbitersHash, needed, bps, termsHash } = entry;
    const lock = { payer, payee, payerKey: this.keyOf(payer), amount, expiry, disputeMs, arbitersHash, needed, bps, status: OPEN, termsHash };
    return { effect: () => this.locks.set(hex(id), lock) };
  }
  lock(entry, must) {
    const lock = this.locks.get(hex(entry.lockId));
    must(lock, "lock", "lock_unknown");
    must(lock.status !== CLOSED, "lock", "lock_closed");
    return { lock, deadline: lock.expiry + (lock.status === DISPUTED ? lock.disputeMs : 0n) };
  }
  /** The lock closes with this share for the payee. */
  close(lock, share, moves) {
    moves.push([this.account(lock.payee), share], [this.account(lock.payer), lock.amount - share]);
    return { effect() { lock.status = CLOSED; } };
  }
  CLAIM(entry, { moves, time }, must) {
    const { lock, deadline } = this.lock(entry, must);
    must(entry.account.equals(lock.payee), "lock", "not_payee");
    must(time < deadline, "lock", "lock_expired");
    must(entry.cumulative <= lock.amount, "lock", "over_amount");
    const voucher = { lockId: entry.lockId, cumulative: entry.cumulative, signature: entry.voucherSignature };
    must(entry.cumulative === 0n || voucherSigned(voucher, lock.payerKey, this.genesis.networkId), "voucher", "bad_voucher");
    return this.close(lock, entry.cumulative, moves);
  }
  EXPIRE(entry, { moves, time }, must) {
    const { lock, deadline } = this.lock(entry, must);
    must(time >= deadline, "lock", "lock_not_expired");
    return this.close(lock, lock.status === DISPUTED ? (lock.amount * BigInt(lock.bps)) / 10000n : 0n, moves);
  }
  RELEASE(entry, { moves, time }, must) {
    const { lock, deadline } = this.lock(entry, must);
    must(entry.account.equals(lock.payer), "lock", "not_payer");
    must(time < deadline, "lock", "lock_expired");
    return this.close(lock, lock.amount, moves);
  }
  DISPUTE(entry, { time }, must) {
    const { lock } = this.lock(entry, must);
    must(lock.status !== DISPUTED, "dispute", "lock_disputed");
    must(entry.account.equals(lock.payee), "dispute", "not_payee");
    must(lock.disputeMs > 0n, "dispute", "not_disputable");
    must(time < lock.expiry, "dispute", "lock_expired");
    return { effect() { lock.status = DISPUTED; } };
  }
  VERDICT(entry, { moves, time }, must) {
    const { lock, deadline } = this.lock(entry, must);
    must(time < deadline, "lock", "lock_expired"); // R7.8 asks this before, R4.22 after the next
    must(lock.status === DISPUTED, "verdict", "not_disputed");
    must(entry.payeeAmount <= lock.amount, "verdict", "over_amount");
    must(arbitersHash(entry.arbiters).equals(lock.arbitersHash), "verdict", "wrong_arbiters");
    const signed = verdictBytes(entry, this.genesis.networkId);
    must(this.approved(entry.approvals, entry.arbiters, lock.needed, signed), "approval", "not_approved");
    return this.close(lock, entry.payeeAmount, moves);
  }
  /** R4.35. */
  approved(approvals, accounts, needed, signed) {
    if (approvals.length < needed || approvals.some(([at]) => at >= accounts.length)) return false;
    return approvals.every(([at, signature]) => verifyBytes(this.keyOf(accounts[at]), signed, signature));
  }
  /** R4.24. */
  decree(entry, must) {
    const { governors, needed, networkId } = this.genesis;
    must(governors.length, "decree", "no_governance");
    must(entry.decree === this.decrees + 1n, "decree");
    must(this.approved(entry.approvals, governors, needed, decreeBytes(entry, networkId)), "approval", "not_approved");
  }
  LIMIT(entry, { own }, must) {
    const { beneficiary, delta, decree } = entry;
    const other = this.account(beneficiary);
    const move = () => this.line(beneficiary, delta);
    if (decree) {
      this.decree(entry, must);
      must(other.limit + delta >= 0n, "limit", "limit_negative");
      must(other.balance >= -(other.limit + delta), "limit", "limit_in_use");
      must(this.limits + delta <= LIMITS_MAX, "limit", "limit_sum");
      return { newLimit: own.limit + (other === own ? delta : 0n), effect: move };
    }
    must(other !== own, "limit", "self_payment");
    const pair = hex(entry.account) + hex(beneficiary);
    const lent = this.delegations.get(pair) ?? 0n;
    if (delta > 0n) {
      must(delta <= own.limit, "balance", "limit_negative");
      const sponsored = () => [...this.delegations.keys()].filter((name) => name.startsWith(hex(entry.account)));
      must(lent || sponsored().length < 1024, "delegation", "too_many_delegations");
    } else {
      must(-delta <= lent, "delegation", "not_delegated");
      must(other.limit + delta >= 0n && other.balance >= -(other.limit + delta), "limit", "limit_in_use");
    }
    const effect = () => {
      move();
      this.line(entry.account, -delta);
      if (lent + delta) this.delegations.set(pair, lent + delta);
      else this.delegations.delete(pair);
    };
    return { newLimit: own.limit - delta, effect };
  }
  REKEY(entry, { id, own, keys, time }, must) {
    must(keys || own.balance || own.limit || own.seq, "rekey", "account_unknown");
    must(!keys || keys.recovery.equals(ZERO32) || time >= keys.rekeyed + HOUR, "rekey", "too_soon");
    must(rekeyProved(entry, this.genesis.networkId), "rekey", "bad_proof");
    const line = { key: entry.newKey, recovery: entry.recovery, rekeys: entry.seq, last: id, rekeyed: time };
    return { effect: () => this.keys.set(hex(entry.account), line) };
  }
  ROTATE(entry, _, must) {
    this.decree(entry, must);
    must(this.committee.epoch < 2 ** 32 - 1, "epoch", "last_epoch");
    const next = committeeOf(this.genesis.networkId, this.committee.epoch + 1, entry.witnesses);
    return { effect: () => { this.committee = next; } };
  }
  PARAM(entry, { height }, must) {
    this.decree(entry, must);
    must(entry.fromHeight > height, "param", "height_passed");
    must(entry.fromHeight <= height + AHEAD_MAX, "param", "height_too_far");
    must(entry.params.version >= this.params.version, "param", "version_lower");
    return { effect: () => { this.pending = { fromHeight: entry.fromHeight, params: entry.params }; } };
  }

  /** R4.31, R4.32. */
  closeBlock(height, time) {
    if (this.pending?.fromHeight === height + 1n) [this.params, this.pending] = [this.pending.params, null];
    if (height % 1000n) return;
    const kept = new Set([...this.delegations.keys()].flatMap((pair) => [pair.slice(0, 64), pair.slice(64)]));
    for (const lock of this.locks.values()) if (lock.status !== CLOSED) kept.add(hex(lock.payer));
    for (const [name, account] of this.accounts) {
      const idle = !account.balance && !account.limit && !this.keys.has(name) && !kept.has(name);
      if (idle && account.active + IDLE_SPAN < time) this.accounts.delete(name);
    }
  }

  /** R4.16. */
  snapshot() {
    const params = (p) => [u(16, p.version), u(64, p.feeMin), u(64, p.disputeFee), u(32, p.slotTimeout)];
    const { pending, committee } = this;
    const parts = [u(8, 2), u(64, this.decrees), ...params(this.params)];
    parts.push(...(pending ? [u(8, 1), u(64, pending.fromHeight), ...params(pending.params)] : [u(8, 0)]));
    parts.push(u(32, committee.epoch), u(8, committee.witnesses.length), ...committee.witnesses);
    const table = (map, line, wanted = () => true) => {
      const names = [...map.keys()].filter((name) => wanted(map.get(name))).sort();
      parts.push(u(64, names.length), ...names.flatMap((name) => [unhex(name), ...line(map.get(name))]));
    };
    table(this.accounts, (a) => [u(64, a.balance), u(64, a.limit), u(64, a.seq), a.last, u(64, a.active)], (a) => a.balance || a.limit || a.seq || a.active);
    table(this.keys, (k) => [k.key, k.recovery, u(64, k.rekeys), k.last, u(64, k.rekeyed)]);
    table(this.delegations, (amount) => [u(64, amount)]);
    table(this.locks, (lock) => [
      lock.payer, lock.payee, lock.payerKey, u(64, lock.amount), u(64, lock.expiry), u(64, lock.disputeMs), lock.arbitersHash,
      u(8, lock.needed), u(16, lock.bps), u(8, lock.status), lock.termsHash,
    ], (lock) => lock.status !== CLOSED);
    return Buffer.concat(parts);
  }
  root() {
    const snapshot = this.snapshot();
    return stateRoot(this.genesis.networkId, snapshot.length, chunkLog(snapshot).root());
  }

  /** R4.4: what is wrong with the sums, or null. */
  imbalance(limits = null) {
    let [sum, lines] = [0n, 0n];
    for (const { balance, limit } of this.accounts.values()) {
      if (limit < 0n || balance < -limit) return "an account below its line";
      sum += balance;
      lines += limit;
    }
    for (const lock of this.locks.values()) if (lock.status !== CLOSED) sum += lock.amount;
    if (sum !== 0n) return "the sum of balances and locks";
    return lines > LIMITS_MAX || lines !== (limits ?? lines) ? "the sum of limits" : null;
  }
}

/** R4.17. */
export function chunkLog(snapshot) {
  const chunks = new Log();
  for (let at = 0; at < snapshot.length; at += CHUNK_BYTES) chunks.append(snapshot.subarray(at, at + CHUNK_BYTES));
  return chunks;
}
export const stateRoot = (networkId, size, root) => sha256(ascii("millrace/1 state\0"), networkId, u(64, size), root);

export class Replay {
  /** From genesis; or from `base`: the books, log and block before which nothing is known (R7.21). */
  constructor(genesis) {
    this.genesis = genesis;
    this.books = new Books(genesis);
    this.log = new Log();
    this.parent = { height: 0n, slot: 0n, time: genesis.created, hash: ZERO32 };
    this.blocks = 0;
    this.isFinal = true;
  }

  /** R7.8, in its order. */
  block(bytes) {
    const { genesis, parent, books } = this;
    const { committee } = books;
    const where = { height: this.blocks + 1 };
    const must = (condition, rule, detail) => {
      if (!condition) throw new Violation(rule, where, detail);
    };
    const { header, entries, certificate, closing, block } = this.decoded(bytes, where);
    must(header.epoch === committee.epoch, "chain", "epoch");
    must(header.height === parent.height + 1n, "chain", "height");
    must(header.parentSlot === parent.slot && header.parentHash.equals(parent.hash), "chain", "parent");
    must(header.time >= parent.time, "time");
    must(books.params.version <= KNOWN_VERSION, "version");
    const hash = headerHash(header, genesis.networkId);
    this.certified(block, hash, committee, must);
    for (const entry of entries) this.log.append(entry.bytes);
    must(header.treeSize === this.log.size && header.logRoot.equals(this.log.root()), "log");
    const at = { height: header.height, time: header.time, epoch: header.epoch, leader: committee.leader(header.slot) };
    entries.forEach((entry, place) => {
      Object.assign(where, { place, index: Number(header.treeSize) - entries.length + place });
      books.entry(entry, at, must);
    });
    delete where.place;
    delete where.index;
    books.closeBlock(header.height, header.time);
    must(header.stateRoot.equals(header.height % 1000n === 0n ? books.root() : ZERO32), "state_root");
    this.parent = { height: header.height, slot: header.slot, time: header.time, hash };
    this.isFinal = certificate.kind === 5 || closing !== null;
    this.blocks += 1;
  }
  decoded(bytes, where) {
    try {
      const block = decodeFinalBlock(bytes);
      Object.assign(where, { height: Number(block.header.height), slot: Number(block.header.slot) });
      return { ...block, block };
    } catch (error) {
      throw error instanceof WireError ? new Violation("encoding", where, error.message) : error;
    }
  }
  certified(block, hash, committee, must) {
    const one = (certificate, hashed) => {
      must(certificate.blockHash.equals(hashed), "certificate", "another block");
      const fault = certificateFault(certificate, committee);
      must(fault !== "quorum", "quorum");
      must(fault === null, "certificate", fault);
    };
    one(block.certificate, hash);
    if (!block.closing) return;
    const last = closedBy(block, committee.networkId);
    must(last !== null, "closing");
    one(block.closing.certificate, last);
  }

  /** The checks at the end, and what the ledger says. */
  report() {
    const { books } = this;
    const height = Number(this.parent.height);
    if (!this.isFinal) throw new Violation("finality", { height });
    const wrong = books.imbalance(books.limits);
    if (wrong) throw new Violation("conservation", { height }, wrong);
    const named = [...books.accounts].filter(([, a]) => a.balance || a.limit || a.seq).sort();
    const open = [...books.locks].filter(([, lock]) => lock.status !== CLOSED).sort();
    return {
      blocks: this.blocks,
      entries: Number(this.log.size),
      height,
      epoch: books.committee.epoch,
      decrees: Number(books.decrees),
      head_hash: hex(this.parent.hash),
      log_root: hex(this.log.root()),
      state_root: hex(books.root()),
      balances: Object.fromEntries(named.map(([key, a]) => [key, String(a.balance)])),
      locks: Object.fromEntries(open.map(([key, lock]) => [key, { amount: String(lock.amount), expiry_ms: String(lock.expiry) }])),
    };
  }
}

/** A ledger file: each final block as one frame of §9 (R9.18). */
export function auditFile(genesis, bytes) {
  const replay = new Replay(genesis);
  for (let at = 0; at < bytes.length;) {
    const size = at + 4 <= bytes.length ? bytes.readUInt32BE(at) : -1;
    if (size < 0 || at + 4 + size > bytes.length) throw new Violation("encoding", { height: replay.blocks + 1 }, "cut");
    replay.block(bytes.subarray(at + 4, at + 4 + size));
    at += 4 + size;
  }
  return replay.report();
}
