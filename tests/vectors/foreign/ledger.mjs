// An audit of final blocks from genesis, a third reading of SPEC.md §4, §6.5 and §7.2.
import {
  Log, certificateFault, decodeFinalBlock, entryId, entrySigned, headerHash, voucherSigned,
} from "./records.mjs";
import { WireError, ZERO32, ascii, hex, sha256, u, unhex } from "./wire.mjs";

const LOCK_SPAN_MAX = 31622400000n;
const VALID_SPAN_MAX = 2592000000n;
const CHUNK_BYTES = 65536;

export class Violation extends Error {
  constructor(rule, where, detail = "") {
    super(detail || rule);
    Object.assign(this, { rule, where });
  }
}

export class Replay {
  constructor(genesis) {
    this.genesis = genesis;
    this.accounts = new Map(); // hex → { balance, limit, seq, last, active }
    this.locks = new Map(); // hex of the id → { payer, payee, amount, expiry, termsHash, open }
    this.log = new Log();
    this.parent = { height: 0n, slot: 0n, time: genesis.created, hash: ZERO32 };
    this.blocks = 0;
    this.certificateKind = null;
    for (const [account, limit] of genesis.limits) this.account(account).limit = limit;
  }

  account(bytes) {
    const name = hex(bytes);
    if (!this.accounts.has(name)) this.accounts.set(name, { balance: 0n, limit: 0n, seq: 0n, last: ZERO32, active: 0n });
    return this.accounts.get(name);
  }

  /** R7.8, in its order. */
  block(bytes) {
    const { genesis, parent } = this;
    const where = { height: this.blocks + 1 };
    const must = (condition, rule, detail) => {
      if (!condition) throw new Violation(rule, where, detail);
    };
    let block;
    try {
      block = decodeFinalBlock(bytes);
    } catch (error) {
      throw error instanceof WireError ? new Violation("encoding", where, error.message) : error;
    }
    const { header, entries, certificate } = block;
    Object.assign(where, { height: Number(header.height), slot: Number(header.slot) });
    must(header.epoch === 0, "chain", "epoch");
    must(header.height === parent.height + 1n, "chain", "height");
    must(header.parentSlot === parent.slot && header.parentHash.equals(parent.hash), "chain", "parent");
    must(header.time >= parent.time, "time");
    const hash = headerHash(header, genesis.networkId);
    must(certificate.blockHash.equals(hash), "certificate", "another block");
    const fault = certificateFault(certificate, genesis);
    must(fault !== "quorum", "quorum");
    must(fault === null, "certificate", fault);
    const first = this.log.size;
    for (const entry of entries) this.log.append(entry.bytes);
    must(header.treeSize === this.log.size && header.logRoot.equals(this.log.root()), "log");
    const leader = genesis.witnesses[Number(header.slot % BigInt(genesis.witnesses.length))];
    entries.forEach((entry, at) => {
      Object.assign(where, { place: at, index: Number(first) + at });
      this.entry(entry, header.time, leader, must);
    });
    delete where.place;
    delete where.index;
    must(header.stateRoot.equals(header.height % 1000n === 0n ? this.root() : ZERO32), "state_root");
    this.parent = { height: header.height, slot: header.slot, time: header.time, hash };
    this.certificateKind = certificate.kind;
    this.blocks += 1;
  }

  /** R4.5 to R4.14. */
  entry(entry, time, leader, must) {
    const { networkId, feeMin } = this.genesis;
    must(entrySigned(entry, networkId), "signature");
    const own = this.account(entry.account);
    must(entry.seq === own.seq + 1n, "sequence");
    must(time <= entry.notAfter && entry.notAfter <= BigInt(time) + VALID_SPAN_MAX, "not_after");
    must(entry.fee >= feeMin, "fee");
    const id = entryId(entry, networkId);
    const moves = []; // [account, amount]; the entry's own, its fee included
    let change = () => {};
    if (entry.type === "TRANSFER") {
      must(!entry.to.equals(entry.account), "payment");
      moves.push([own, -entry.amount - entry.fee], [this.account(entry.to), entry.amount]);
    } else if (entry.type === "LOCK") {
      must(!entry.payee.equals(entry.account), "payment");
      must(time < entry.expiry, "lock", "expiry_passed");
      must(entry.expiry <= time + LOCK_SPAN_MAX, "lock", "expiry_too_far");
      moves.push([own, -entry.amount - entry.fee]);
      change = () => this.locks.set(hex(id), {
        payer: entry.account, payee: entry.payee, amount: entry.amount, expiry: entry.expiry, termsHash: entry.termsHash, open: true,
      });
    } else {
      const lock = this.locks.get(hex(entry.lockId));
      must(lock, "lock", "lock_unknown");
      must(lock.open, "lock", "lock_closed");
      change = () => { lock.open = false; };
      if (entry.type === "CLAIM") {
        must(entry.account.equals(lock.payee), "lock", "not_payee");
        must(time < lock.expiry, "lock", "lock_expired");
        must(entry.cumulative <= lock.amount, "lock", "over_amount");
        const voucher = { lockId: entry.lockId, cumulative: entry.cumulative, signature: entry.voucherSignature };
        must(entry.cumulative === 0n || voucherSigned(voucher, lock.payer, networkId), "voucher");
        moves.push([own, entry.cumulative - entry.fee], [this.account(lock.payer), lock.amount - entry.cumulative]);
      } else {
        must(time >= lock.expiry, "lock", "lock_not_expired");
        moves.push([this.account(lock.payer), lock.amount], [own, -entry.fee]);
      }
    }
    const gain = moves.reduce((sum, [account, by]) => (account === own ? sum + by : sum), 0n);
    must(own.balance + gain >= -own.limit, "balance");
    for (const [account, by] of moves) account.balance += by;
    change();
    Object.assign(own, { seq: entry.seq, last: id, active: BigInt(time) });
    this.account(leader).balance += entry.fee;
  }

  /** R4.16, for the four types that are read here: no keys, no delegations, no decrees. */
  snapshot() {
    const ids = (map, wanted) => [...map.keys()].filter((key) => wanted(map.get(key))).sort();
    const accounts = ids(this.accounts, (a) => a.balance !== 0n || a.limit !== 0n || a.seq !== 0n || a.active !== 0n);
    const locks = ids(this.locks, (lock) => lock.open);
    const { feeMin, disputeFee, slotTimeout, witnesses } = this.genesis;
    const parts = [
      u(8, 2), u(64, 0), u(16, 1), u(64, feeMin), u(64, disputeFee), u(32, slotTimeout), u(8, 0),
      u(32, 0), u(8, witnesses.length), ...witnesses, u(64, accounts.length),
    ];
    for (const key of accounts) {
      const a = this.accounts.get(key);
      parts.push(unhex(key), u(64, a.balance), u(64, a.limit), u(64, a.seq), a.last, u(64, a.active));
    }
    parts.push(u(64, 0), u(64, 0), u(64, locks.length));
    for (const key of locks) {
      const lock = this.locks.get(key);
      const undisputed = [u(64, 0), ZERO32, u(8, 0), u(16, 0), u(8, 1)];
      const { payer, payee, amount, expiry, termsHash } = lock;
      parts.push(unhex(key), payer, payee, payer, u(64, amount), u(64, expiry), ...undisputed, termsHash);
    }
    return Buffer.concat(parts);
  }
  root() {
    const snapshot = this.snapshot();
    const chunks = new Log();
    for (let at = 0; at < snapshot.length; at += CHUNK_BYTES) chunks.append(snapshot.subarray(at, at + CHUNK_BYTES));
    return sha256(ascii("millrace/1 state\0"), this.genesis.networkId, u(64, snapshot.length), chunks.root());
  }

  /** The checks at the end, and what the ledger says. */
  report() {
    if (this.blocks && this.certificateKind !== 5) throw new Violation("finality", { height: this.blocks });
    const open = [...this.locks].filter(([, lock]) => lock.open);
    let sum = 0n;
    for (const account of this.accounts.values()) sum += account.balance;
    for (const [, lock] of open) sum += lock.amount;
    if (sum !== 0n) throw new Violation("conservation", { height: this.blocks });
    const named = [...this.accounts].filter(([, a]) => a.balance || a.limit || a.seq).sort();
    return {
      blocks: this.blocks,
      entries: Number(this.log.size),
      head_hash: hex(this.parent.hash),
      log_root: hex(this.log.root()),
      state_root: hex(this.root()),
      balances: Object.fromEntries(named.map(([key, a]) => [key, String(a.balance)])),
      locks: Object.fromEntries(open.sort().map(([key, lock]) => [key, { amount: String(lock.amount), expiry_ms: String(lock.expiry) }])),
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
