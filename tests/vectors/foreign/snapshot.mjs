// A state in bytes (SPEC.md §4.6), read strictly; and an audit that begins at one (R7.21, R15.29).
import { needKey } from "./ed25519.mjs";
import { Books, Replay, Violation, chunkLog, stateRoot } from "./ledger.mjs";
import { Log, committeeOf, decodeFinalBlock, headerHash, inclusionRoot, leafHash, readParams } from "./records.mjs";
import { I63_MAX, Refused, WireError, ZERO32, hex, need, whole } from "./wire.mjs";

const LIMIT_MAX = 2n ** 62n;
const CHUNK_BYTES = 65536;
const within = (value, least, most, what) => (need(value >= least && value <= most, `${what} is out of bounds`), value);
const i63 = (r, what, least = 0n) => within(r.u64(), least, I63_MAX, what);
const optionalKey = (bytes) => (bytes.equals(ZERO32) ? bytes : needKey(bytes, "recovery"));

/** R4.36: the books that `bytes` say, canonical bytes only. */
export function readSnapshot(genesis, bytes) {
  const books = new Books(genesis);
  whole(bytes, (r) => {
    need(r.u8() === 2, "version of the snapshot");
    books.decrees = i63(r, "decrees");
    books.params = readParams(r);
    const pending = within(r.u8(), 0, 1, "pending");
    books.pending = pending ? { fromHeight: i63(r, "from_height", 1n), params: readParams(r) } : null;
    const epoch = r.u32();
    const witnesses = Array.from({ length: within(r.u8(), 1, 64, "witnesses") }, () => needKey(r.take(32), "a witness"));
    need(new Set(witnesses.map(hex)).size === witnesses.length, "a witness twice");
    need(BigInt(epoch) <= books.decrees, "an epoch that nobody decreed");
    need(epoch > 0 || Buffer.concat(witnesses).equals(Buffer.concat(genesis.witnesses)), "other witnesses than those of genesis");
    books.committee = committeeOf(genesis.networkId, epoch, witnesses);
    books.accounts = table(r, 32, () => readAccount(r), "an account");
    books.keys = table(r, 32, () => readKeys(r), "an account with keys");
    books.delegations = table(r, 64, (name) => {
      const sides = [name.subarray(0, 32), name.subarray(32)].map((key) => needKey(key, "a side of a delegation"));
      need(!sides[0].equals(sides[1]), "a delegation to oneself");
      return within(r.u64(), 1n, LIMIT_MAX, "a delegation");
    });
    books.locks = table(r, 32, () => readLock(r));
  });
  books.limits = [...books.accounts.values()].reduce((sum, { limit }) => sum + limit, 0n);
  const wrong = books.imbalance();
  if (wrong) throw new Refused("InvariantError", wrong);
  return books;
}
function table(r, width, read, key = null) {
  const lines = new Map();
  let before = null;
  for (let left = r.u64(); left > 0n; left--) {
    const name = r.take(width);
    need(before === null || Buffer.compare(before, name) < 0, "lines out of order");
    before = key ? needKey(name, key) : name;
    lines.set(hex(name), read(name));
  }
  return lines;
}
function readAccount(r) {
  const account = { balance: BigInt.asIntN(64, r.u64()), limit: within(r.u64(), 0n, LIMIT_MAX, "a limit"), seq: i63(r, "seq"), last: r.take(32), active: i63(r, "active") };
  need(account.balance || account.limit || account.seq || account.active, "an account of which nothing is known");
  need(account.seq > 0n || account.last.equals(ZERO32), "a last id without an entry");
  return account;
}
const readKeys = (r) => ({
  key: needKey(r.take(32), "a key"), recovery: optionalKey(r.take(32)), rekeys: i63(r, "rekeys", 1n), last: r.take(32), rekeyed: i63(r, "rekeyed_ms"),
});
function readLock(r) {
  const [payer, payee, payerKey] = ["payer", "payee", "payer's key"].map((what) => needKey(r.take(32), what));
  need(!payer.equals(payee), "a lock for oneself");
  const lock = { payer, payee, payerKey, amount: within(r.u64(), 1n, 2n ** 48n, "amount"), expiry: i63(r, "expiry"), disputeMs: r.u64() };
  Object.assign(lock, { arbitersHash: r.take(32), needed: r.u8(), bps: r.u16(), status: within(r.u8(), 1, 2, "status"), termsHash: r.take(32) });
  const none = !lock.disputeMs && !lock.needed && !lock.bps && lock.arbitersHash.equals(ZERO32);
  const some = lock.disputeMs >= 1n && lock.disputeMs <= 2592000000n && !lock.arbitersHash.equals(ZERO32);
  need(none || (some && lock.needed >= 1 && lock.needed <= 16 && lock.bps <= 10000), "dispute fields");
  need(lock.status === 1 || lock.disputeMs > 0n, "a dispute that cannot be");
  return lock;
}

/** R4.17, R15.29: whether `data` is chunk `index` of the snapshot of this size that the header names. */
export function chunkHolds({ networkId, root, size, chunksRoot, index, data, path }) {
  if (!stateRoot(networkId, size, chunksRoot).equals(root)) return false;
  const count = (size + BigInt(CHUNK_BYTES) - 1n) / BigInt(CHUNK_BYTES);
  const last = size - (count - 1n) * BigInt(CHUNK_BYTES);
  if (BigInt(data.length) !== (index === count - 1n ? last : BigInt(CHUNK_BYTES))) return false;
  return inclusionRoot(leafHash(data), index, count, path)?.equals(chunksRoot) ?? false;
}

/** A replay that begins behind `block`, with the snapshot and the peaks after it; `committee` is that of the block's epoch. */
export function replayFrom(genesis, { block, snapshot, peaks }, committee = null) {
  const { header, ...rest } = decodeFinalBlock(block);
  const where = { height: Number(header.height), slot: Number(header.slot) };
  const must = (condition, rule, detail) => { if (!condition) throw new Violation(rule, where, detail); };
  const replay = new Replay(genesis);
  try {
    replay.books = readSnapshot(genesis, snapshot);
  } catch (error) {
    must(!(error instanceof WireError || error instanceof Refused), "base", error.message);
    throw error;
  }
  must(stateRoot(genesis.networkId, snapshot.length, chunkLog(snapshot).root()).equals(header.stateRoot), "base", "another state");
  replay.log = logOf(header.treeSize, peaks);
  must(replay.log?.root().equals(header.logRoot), "base", "peaks of another log");
  const known = committee ?? (header.epoch === 0 ? committeeOf(genesis.networkId, 0, genesis.witnesses) : replay.books.committee);
  must(known.epoch === header.epoch, "base", "the committee that certified it is not known");
  replay.baseEpoch = header.epoch;
  const hash = headerHash(header, genesis.networkId);
  replay.certified({ header, ...rest }, hash, known, must);
  return resumed(replay, header, hash, rest.certificate.kind === 5 || rest.closing !== null);
}
/** R5.6. */
export function logOf(size, peaks) {
  const log = new Log();
  const bits = size.toString(2).replaceAll("0", "").length;
  if (peaks.length !== bits || peaks.some((node) => node.length !== 32)) return null;
  return Object.assign(log, { size, peaks: [...peaks] });
}
export function resumed(replay, header, hash, isFinal) {
  replay.parent = { height: header.height, slot: header.slot, time: header.time, hash };
  return Object.assign(replay, { isFinal });
}
/** The same replay again, out of what a snapshot keeps: closed locks are forgotten (R4.15). */
export function twin(replay) {
  const copy = Object.assign(new Replay(replay.genesis), { parent: replay.parent, blocks: replay.blocks, isFinal: replay.isFinal });
  copy.log = logOf(replay.log.size, replay.log.peaks);
  copy.books = readSnapshot(replay.genesis, replay.books.snapshot());
  return copy;
}
