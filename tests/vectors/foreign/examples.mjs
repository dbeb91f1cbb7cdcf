// Every example of SPEC.md that can be computed, computed: each is reproduced from what the text says about
// it (seeds, hashes of named texts, field values) and compared with the bytes that stand there.
import { createHash } from "node:crypto";
import { KIND, SigningKey, signingBytes } from "./ed25519.mjs";
import { decodeEvidence, guilty } from "./evidence.mjs";
import { Books } from "./ledger.mjs";
import { readNetworkFile } from "./networkfile.mjs";
import {
  certificateFault, commitment, decodeAdvert, decodeCertificate, decodeEntry, decodeGenesis, decodeOutcome, decodeTask, decodeTerms,
  decodeVote, decodeVoucher, decodeReceipt, entryId, entrySigned, handedOver, headerHash, inclusionRoot, leafHash, nodeHash, openEnvelope,
  outcomeDigest, readHandover, readHeader, taskDigest, termsHash, termsSigned, verifyReceipt, voteSigned, voucherSigned,
} from "./records.mjs";
import { ZERO32, accountOfPeerId, ascii, hex, pack, peerId, sha256, u, unhex, unpack, whole } from "./wire.mjs";

class Text {
  constructor(source) {
    this.source = source;
  }
  /** The n-th fenced block after `anchor`, as lines. */
  lines(anchor, n = 1) {
    const from = this.source.indexOf(anchor);
    if (from < 0) throw new Error(`SPEC.md does not say: ${anchor}`);
    return this.source.slice(from).split(/^```.*$/m)[2 * n - 1].split("\n").filter((line) => line.trim());
  }
  /** Its bytes: each line's words up to the first that is not hex is the remark's. */
  bytes(anchor, n = 1) {
    return unhex(this.lines(anchor, n).map((line) => /^(?:(?:[0-9a-f]{2})+(?:\s+|$))*/.exec(line)[0].replace(/\s/g, "")).join(""));
  }
  /** The first inline code span after `anchor`. */
  span(anchor) {
    const from = this.source.indexOf(anchor);
    if (from < 0) throw new Error(`SPEC.md does not say: ${anchor}`);
    return this.source.slice(from + anchor.length).split("`")[1];
  }
}

export function examples(source) {
  const spec = new Text(source);
  const results = [];
  const same = (name, got, want) => {
    const show = (value) => (Buffer.isBuffer(value) ? hex(value) : String(value));
    results.push({ name, ok: show(got) === show(want), ...(show(got) === show(want) ? {} : { got: show(got), want: show(want) }) });
  };
  const holds = (name, condition) => results.push({ name, ok: Boolean(condition) });
  for (const section of [keys, entries, state, merkle, blocks, receipts, network, frames, envelopes, discovery, leases, tasks, services]) {
    section(spec, same, holds);
  }
  return results;
}

const seed = (byte) => new SigningKey(Buffer.alloc(32, byte));
const [alice, bob, witness] = [seed(0x0a), seed(0x0b), seed(0x01)];
const range = (from, count) => Buffer.from(Array.from({ length: count }, (_, i) => from + i));
const T0 = 1_700_000_000_000n;
const HOUR = 3_600_000n;
let genesis; // of the example network, read from the text (§8)
let example = {}; // records of one section that later ones refer to

function keys(spec, same) {
  genesis = decodeGenesis(spec.bytes("The genesis record of the example network"));
  const [account, id] = spec.lines("Example: the seed of 32 bytes `0a`");
  same("§2 account of a seed", alice.account, account);
  same("§2 peer id", peerId(alice.account), id);
  same("§2 account of a peer id", accountOfPeerId(id), alice.account);
}

function entries(spec, same, holds) {
  const id = genesis.networkId;
  const head = (type, key, seq, notAfter, fee) => Buffer.concat([u(8, type), key.account, u(64, seq), u(64, notAfter), u(64, fee)]);
  const signed = (key, body) => Buffer.concat([body, key.sign(KIND.ENTRY, id, body)]);
  const notAfter = T0 + 120_000n;
  const transfer = signed(alice, Buffer.concat([head(1, alice, 1, notAfter, 10), bob.account, u(64, 2_500_000), sha256(ascii("thanks"))]));
  const lockBody = Buffer.concat([head(2, alice, 2, notAfter, 10), bob.account, u(64, 5_000_000), u(64, T0 + HOUR), Buffer.alloc(43), sha256(ascii("terms"))]);
  const lock = signed(alice, lockBody);
  const lockId = sha256(signingBytes(KIND.ENTRY, id, lockBody));
  const promise = Buffer.concat([lockId, u(64, 3_000_000)]);
  const voucher = Buffer.concat([promise, alice.sign(KIND.VOUCHER, id, promise)]);
  const claim = signed(bob, Buffer.concat([head(3, bob, 1, notAfter, 10), voucher]));
  const expire = signed(bob, Buffer.concat([head(4, bob, 1, T0 + HOUR + 60_000n, 0), lockId]));
  same("§2 what a voucher signs", signingBytes(KIND.VOUCHER, id, promise), spec.bytes("What Alice signs when she promises 3 credits"));
  same("§3 TRANSFER", transfer, spec.bytes("TRANSFER: Alice pays Bob 2.5 credits"));
  same("§3 TRANSFER id", entryId(decodeEntry(transfer), id), spec.bytes("TRANSFER: Alice pays Bob 2.5 credits", 2));
  same("§3 LOCK", lock, spec.bytes("LOCK: Alice sets 5 credits aside"));
  same("§3 LOCK id", lockId, spec.bytes("LOCK: Alice sets 5 credits aside", 2));
  same("§3 voucher", voucher, spec.bytes("The voucher by which Alice promises"));
  same("§3 CLAIM", claim, spec.bytes("CLAIM: Bob closes the lock"));
  same("§3 EXPIRE", expire, spec.bytes("EXPIRE: or, had he not"));
  const rare = rareEntries(spec, same, head, signed);
  for (const bytes of [transfer, lock, claim, expire, ...rare]) holds(`§3 ${decodeEntry(bytes).type} verifies`, entrySigned(decodeEntry(bytes), id));
  holds("§3 voucher verifies", voucherSigned(decodeVoucher(voucher), alice.account, id));
  example = { transfer, lock, lockId, claim, rotate: rare.at(-2) };
}

/** The types of entry that a dispute, governance or a lost key needs; decrees are approved by Alice. */
function rareEntries(spec, same, head, signed) {
  const id = genesis.networkId;
  const notAfter = T0 + 120_000n;
  const arbiters = sha256(ascii("millrace/1 arbiters\0"), u(8, 1), witness.account);
  const dispute = [u(64, 86_400_000), arbiters, u(8, 1), u(16, 2500)];
  const lock = signed(alice, Buffer.concat([head(2, alice, 3, notAfter, 10), bob.account, u(64, 5_000_000), u(64, T0 + HOUR), ...dispute, sha256(ascii("terms"))]));
  const lockId = entryId(decodeEntry(lock), id);
  const award = Buffer.concat([lockId, u(64, 4_000_000)]);
  const entry = (key, type, seq, ...parts) => signed(key, Buffer.concat([head(type, key, seq, notAfter, 10), ...parts]));
  const decree = (type, seq, number, body, layout) => {
    const approval = alice.sign(KIND.DECREE, id, Buffer.concat([u(8, type), u(64, number), body]));
    return entry(alice, type, seq, ...layout(u(64, number), body), u(16, 1), approval);
  };
  const limit = Buffer.concat([bob.account, u(64, 1_000_000)]);
  const params = Buffer.concat([u(64, 5000), u(16, 1), u(64, 10), u(64, 1000), u(32, 1000)]);
  const committee = Buffer.concat([u(8, 2), witness.account, bob.account]);
  const [fresh, recovery] = [seed(0x0c), seed(0x0d)];
  const keys = Buffer.concat([fresh.account, recovery.account]);
  const proof = fresh.sign(KIND.REKEY, id, Buffer.concat([alice.account, u(64, 1), keys]));
  const made = {
    "LOCK with arbiters: as above": lock,
    "RELEASE: Alice gives all": entry(alice, 5, 4, lockId),
    "DISPUTE: Bob calls": entry(bob, 6, 2, lockId, sha256(ascii("evidence"))),
    "VERDICT: Bob brings": entry(bob, 7, 3, award, u(8, 1), witness.account, u(16, 1), witness.sign(KIND.VERDICT, id, award)),
    "LIMIT, by a sponsor": entry(alice, 8, 5, bob.account, u(64, -1_000_000), u(64, 0), u(16, 0)),
    "LIMIT, by governors": decree(8, 6, 1, limit, (number, body) => [body, number]),
    "PARAM: from height 5,000": decree(11, 7, 2, params, (number, body) => [number, body]),
    "ROTATE: the witness and Bob": decree(10, 8, 3, committee, (number, body) => [number, body]),
    "REKEY: Alice's account": entry(alice, 9, 1, keys, proof),
  };
  for (const [anchor, bytes] of Object.entries(made)) same(`§3 ${anchor}`, bytes, spec.bytes(anchor));
  same("§3 id of a lock with arbiters", lockId, spec.bytes("Its id, which the next three name"));
  return Object.values(made);
}

function state(spec, same) {
  const books = new Books(genesis);
  const must = (condition, rule) => { if (!condition) throw new Error(rule); };
  const at = { height: 1n, time: T0 + 1000n, epoch: 0, leader: witness.account };
  for (const bytes of [example.transfer, example.lock]) books.entry(decodeEntry(bytes), at, must);
  same("§4 snapshot", books.snapshot(), spec.bytes("the state in bytes (a *snapshot*)"));
  same("§4 state root", books.root(), spec.bytes("and its root:"));
}

function merkle(spec, same) {
  const leaves = [example.transfer, example.lock, example.claim].map(leafHash);
  const two = nodeHash(leaves[0], leaves[1]);
  same("§5 leaves and roots", Buffer.concat([...leaves, two, nodeHash(two, leaves[2])]), spec.bytes("The leaves of the example's three entries"));
}

function blocks(spec, same, holds) {
  const id = genesis.networkId;
  const root = nodeHash(leafHash(example.transfer), leafHash(example.lock));
  const header = Buffer.concat([u(8, 1), u(32, 0), u(64, 1), u(64, 1), u(64, 0), ZERO32, u(64, T0 + 1000n), u(64, 2), root, ZERO32, u(32, 2)]);
  const hash = headerHash(whole(header, readHeader), id);
  const ballot = Buffer.concat([u(32, 0), u(64, 1), hash]);
  const signature = witness.sign(KIND.FINAL, id, ballot);
  const vote = Buffer.concat([u(8, 5), ballot, witness.account, signature]);
  const certificate = Buffer.concat([u(8, 5), ballot, u(64, 1), signature]);
  same("§6 ask", Buffer.concat([u(8, 4), u(64, 7), u(64, 5), ZERO32]), spec.bytes("An ask for certificates from slot 7 on"));
  const recalls = [Buffer.concat([u(8, 7), u(32, 0), u(64, 5)]), Buffer.concat([u(8, 8), u(32, 0), u(64, 5), u(64, 7), u(8, 0)])];
  same("§6 recall and recalled", Buffer.concat(recalls), spec.bytes("A recall in epoch 0 by a witness"));
  same("§6 header", header, spec.bytes("The header of the example's only block"));
  same("§6 block hash", hash, spec.bytes("The header of the example's only block", 2));
  same("§6 vote", vote, spec.bytes("The header of the example's only block", 3));
  same("§6 certificate", certificate, spec.bytes("With one witness, one vote is the certificate"));
  holds("§6 vote verifies", voteSigned(decodeVote(vote), id));
  holds("§6 certificate verifies", certificateFault(decodeCertificate(certificate), genesis) === null);
  Object.assign(example, { header, certificate, root });
}

function receipts(spec, same) {
  const leaf1 = leafHash(example.lock);
  const receipt = Buffer.concat([example.transfer, u(64, 0), u(8, 1), leaf1, example.header, u(16, 0), example.certificate, u(16, 0), u(8, 0)]);
  same("§7 receipt", receipt, spec.bytes("The receipt for Alice's TRANSFER"));
  verifyReceipt(decodeReceipt(receipt), genesis);
  example.receipt = receipt;
  handover(spec, same);
  same("§7 root of the path", inclusionRoot(leafHash(example.transfer), 0n, 2n, [leaf1]), example.root);
}

function handover(spec, same) {
  const id = genesis.networkId;
  const { rotate, root, header: first } = example;
  const hash = sha256(signingBytes(KIND.PROPOSAL, id, first));
  const after = nodeHash(root, leafHash(rotate));
  const header = Buffer.concat([u(8, 1), u(32, 0), u(64, 2), u(64, 2), u(64, 1), hash, u(64, T0 + 2000n), u(64, 3), after, ZERO32, u(32, 1)]);
  const ballot = Buffer.concat([u(32, 0), u(64, 2), headerHash(whole(header, readHeader), id)]);
  const certificate = Buffer.concat([u(8, 5), ballot, u(64, 1), witness.sign(KIND.FINAL, id, ballot)]);
  const bytes = Buffer.concat([rotate, u(8, 1), root, header, u(16, 0), certificate]);
  same("§7 handover", bytes, spec.bytes("### 7.3 Handovers and light clients"));
  const next = handedOver(genesis, [whole(bytes, readHandover)]);
  same("§7 committee handed over to", `${next?.epoch} ${next?.witnesses.map(hex)}`, `1 ${[witness, bob].map((key) => hex(key.account))}`);
  const slot3 = [u(8, 1), u(32, 0), u(64, 3), u(64, 3), u(64, 2), headerHash(whole(header, readHeader), id)];
  const empty = Buffer.concat([...slot3, u(64, T0 + 3000n), u(64, 3), after, ZERO32, u(32, 0)]);
  const closed = Buffer.concat([u(32, 0), u(64, 3), headerHash(whole(empty, readHeader), id)]);
  const closing = Buffer.concat([u(16, 1), empty, u(8, 5), closed, u(64, 1), witness.sign(KIND.FINAL, id, closed)]);
  same("§6 closing", closing, spec.bytes("Had the second block of §7.3"));
  const vote = (kind, block) => {
    const said = Buffer.concat([u(32, 0), u(64, 1), block]);
    return Buffer.concat([u(8, kind), said, witness.account, witness.sign(kind, id, said)]);
  };
  const evidence = Buffer.concat([u(8, 1), vote(KIND.SKIP, ZERO32), vote(KIND.FINAL, hash)]);
  same("§7 evidence", evidence, spec.bytes("### 7.4 Evidence"));
  same("§7 culprit", guilty(decodeEvidence(evidence), genesis)[0].map(hex), hex(witness.account));
}

function network(spec, same) {
  const record = Buffer.concat([
    u(8, 2), u(8, 7), ascii("example"), u(64, T0), u(32, 1000), u(64, 0), u(64, 0),
    u(16, 1), witness.account, u(16, 1), alice.account, u(64, 1_000_000_000), u(8, 0), u(8, 0),
  ]);
  same("§8 genesis", record, spec.bytes("The genesis record of the example network"));
  same("§8 network id", sha256(ascii("millrace/1 genesis\0"), record), spec.bytes("The genesis record of the example network", 2));
  const file = readNetworkFile(Buffer.from(spec.lines("The file of the example network above").join("\n") + "\n"));
  same("§8 network file", file.genesis.networkId, genesis.networkId);
  same("§8 entry point", file.bootstrap[0], `/ip4/192.0.2.1/tcp/4710/p2p/${peerId(witness.account)}`);
}

function frames(spec, same) {
  const frame = (...parts) => hex(Buffer.concat([u(32, Buffer.concat(parts).length), ...parts]));
  const cell = (label) => spec.span(label).replaceAll(" ", "");
  same("§9 frame", frame(ascii("mills")), cell("the message `mills` as a frame |"));
  same("§9 request", frame(u(32, 1), ascii("abc")), cell("request number 1 with the body `abc`, as a frame |"));
  same("§9 answer", frame(u(32, 1), u(8, 0), ascii("cba")), cell("its answer `cba`, as a frame |"));
  same("§9 refusal", frame(u(32, 1), u(8, 1)), cell("request number 1 refused, as a frame |"));
}

function envelopes(spec, same, holds) {
  const key = new SigningKey(range(0, 32));
  const id = range(0x20, 32);
  const seal = (body) => {
    const signed = Buffer.concat([u(8, 1), u(8, 1), key.account, u(64, T0), u(64, T0 + 60_000n), u(32, 60_000), u(16, body.length), body]);
    return { signed, bytes: Buffer.concat([signed, key.sign(KIND.ENVELOPE, id, signed)]) };
  };
  same("§10 envelope, the signed part", seal(unhex("c0ffee")).signed, spec.bytes("### 10.1 The envelope"));
  const example = seal(unhex("c0ffee"));
  const stated = spec.bytes("Signature and id of the example");
  same("§10 envelope, signature and id", Buffer.concat([example.bytes.subarray(-64), sha256(example.signed)]), stated);
  same("§10 digest of a bucket", sha256(key.account, u(64, T0)).subarray(0, 8), spec.span("with nobody else in it the digest is"));
  const advert = {
    kinds: ["wasm"], owner: key.account, slots_free: 3, runtimes: {}, cores: 1, memory_bytes: 0, rates: {}, price_per_tfuel: 0,
    price_core_hour: 0, name: "", region: "", watts: 0, carbon_g_per_kwh: 0, relayed: false, addresses: [],
  };
  const body = spec.bytes("### 10.2 The advert");
  same("§10 advert", pack(advert), body);
  same("§10 advert decodes", decodeAdvert(body, key.account).slots_free, 3);
  holds("§10 envelope opens", openEnvelope(seal(body).bytes, id, T0).advert);
  const page = Buffer.concat([unhex("82010002"), Buffer.alloc(32, 1), u(64, 5), Buffer.alloc(32, 2), u(64, 2n ** 63n)]);
  const words = spec.source.slice(spec.source.indexOf("Example: the index page ")).split("`").filter((_, at) => at % 2).slice(0, 5);
  const filled = words.map((word) => word.replaceAll(" ", "").replace(/^(..)\1….*$/, (_, byte) => byte.repeat(32)));
  same("§10 index page", page, filled.join(""));
}

function discovery(spec, same) {
  const id = range(0, 32);
  same("§11 DHT key", sha256(ascii("millrace/1\0dht peers\0"), id), spec.span("for the network id `000102…1f`:"));
  const account = Buffer.concat([u(8, 3), Buffer.alloc(31)]);
  const address = Buffer.from(`/ip4/127.0.0.1/tcp/1001/p2p/${peerId(account)}`);
  const book = Buffer.concat([
    ascii("MRPB"), u(8, 1), u(32, 1), account, ZERO32, u(64, T0), u(64, T0), u(16, 0), u(8, 1), u(8, 4), u(16, address.length), address,
  ]);
  same("§11 peer book", sha256(id, book), spec.lines("### 11.5 The file").at(-1));
}

function leases(spec, same, holds) {
  const id = genesis.networkId;
  const module = sha256(ascii("module"));
  const jobId = sha256(ascii("millrace/1 job\0"), alice.account, range(0, 16), module, sha256(ascii("task 0")), sha256(ascii("task 1")));
  const terms = Buffer.concat([
    u(8, 1), alice.account, bob.account, jobId, range(0x10, 16), module, u(32, 2048), u(64, 50_000), u(64, 5_000_000), u(64, T0 + HOUR),
    u(64, 20_000_000_000n), u(64, 2n ** 28n), u(32, 60_000), u(32, 2 ** 20), u(16, 8), u(8, 2),
  ]);
  same("§12 terms", terms, spec.bytes("### 12.1 Terms"));
  const decoded = decodeTerms(terms);
  const [hash, ...signatures] = spec.lines("Terms hash (the lease's id");
  same("§12 terms hash", termsHash(decoded, id), hash);
  const sigs = [alice, bob].map((key) => key.sign(KIND.TERMS, id, terms));
  same("§12 signatures", sigs.map(hex).join(), signatures.join());
  holds("§12 both signed", termsSigned(decoded, decoded.buyer, sigs[0], id) && termsSigned(decoded, decoded.worker, sigs[1], id));
  same("§12 signing bytes", signingBytes(KIND.TERMS, id, terms), spec.bytes("The signing bytes (§2, kind 8)"));
  const outcome = Buffer.concat([u(8, 1), u(8, 0), u(32, 0), u(64, 1_234_567), Buffer.alloc(24), u(32, 5), ascii("hello"), u(32, 0)]);
  const unit = sha256(ascii("millrace/1 unit\0"), jobId, u(32, 1));
  const commits = commitment(unit, bob.account, ZERO32, outcomeDigest(decodeOutcome(outcome)));
  same("§12 commitment", commits, spec.bytes("The example's commitment:"));
  const promise = Buffer.concat([sha256(ascii("lock")), u(64, 1)]);
  const voucher = Buffer.concat([promise, alice.sign(KIND.VOUCHER, id, promise)]);
  const messages = [
    { t: "propose", terms, sig: sigs[0] }, { t: "accept", sig: sigs[1] }, { t: "refuse", reason: "all leases are taken" },
    { t: "need_module" }, { t: "module", offset: 0, data: unhex("0061736d") }, { t: "ready" }, { t: "units", units: [[1, ascii("task")]] },
    { t: "committed", commits: [[1, commits]] }, { t: "reveal", units: [1] }, { t: "results", results: [[1, outcome, ZERO32]] },
    { t: "verdicts", verdicts: [[1, "paid", 1]], voucher }, { t: "end", reason: "the job is done" },
  ];
  const lines = spec.lines("### 12.2 The stream");
  const stated = lines.join("\n").split(/;.*$/m).map((part) => part.replace(/\s/g, "")).filter(Boolean);
  same("§12 number of messages", stated.length, messages.length);
  messages.forEach((message, at) => same(`§12 ${message.t}`, pack(message), stated[at]));
  for (const bytes of stated) unpack(unhex(bytes));
  const locked = pack({ t: "locked", receipt: example.receipt });
  same("§12 locked", locked.subarray(0, -501), spec.span("One message of each kind but `locked`, which is"));
}

function tasks(spec, same) {
  const task = Buffer.concat([
    u(8, 1), u(8, 1), range(0, 32), u(64, 1_000_000), u(64, 2 ** 20), u(32, 2500), u(32, 4096), u(16, 6), ascii("_start"), u(16, 2),
    u(32, 1), ascii("7"), u(32, 2), Buffer.from("ü"), u(32, 2), ascii("in"),
  ]);
  same("§13 task", task, spec.bytes("A WASI command (module hash 00 01"));
  decodeTask(task);
  same("§13 task digest", taskDigest(task), spec.span("\ntask digest "));
  const outcome = Buffer.concat([
    u(8, 1), u(8, 1), u(32, 7), u(64, 100_049), u(64, 3500), u(64, 4000), u(64, 21_000_192), u(32, 6), ascii("hello\n"), u(32, 4), ascii("warn"),
  ]);
  same("§13 outcome", outcome, spec.bytes("Its outcome on some worker"));
  const digest = outcomeDigest(decodeOutcome(outcome));
  same("§13 outcome digest", digest, spec.span("\noutcome digest "));
  const float = (bytes, write) => { const out = Buffer.alloc(bytes); write(out); return out; };
  const results = Buffer.concat([
    unhex("7f"), u(32, -1), unhex("7e"), u(64, 5), unhex("7d"), float(4, (b) => b.writeFloatBE(0.5)), unhex("7c7ff8000000000000"),
  ]);
  same("§13 results", results, spec.span("f64 NaN):").replaceAll(" ", ""));
  const random = createHash("shake256", { outputLength: 16 }).update(sha256(ascii("millrace/1\0random\0"), ZERO32)).update(u(64, 0)).digest();
  same("§13 random bytes", random, spec.span("the first 16 bytes are"));
  same("§13 sieve", Buffer.concat([unhex("7f"), u(32, 82_025)]), spec.span("`sieve(1)` returns i32 82,025 ("));
  same("§14 unit", taskDigest(task), spec.span("this example a task digest)"));
  same("§14 commitment", commitment(taskDigest(task), Buffer.alloc(32, 1), Buffer.alloc(32, 2), digest), spec.span("\ncommitment "));
}

function services(spec, same) {
  const lines = spec.lines("Final blocks from height 3 on");
  same("§15 request", pack({ op: "blocks", height: 3, count: 64, wait_ms: 2000 }), lines[0]);
  same("§15 answer", pack({ ok: { status: "waiting" } }), lines[1]);
  const error = { code: "no_peers", what: "no peer fits", why: "none is free", next: "wait", reasons: ["a: busy"] };
  const row = spec.bytes("The row of a block of height 7");
  same("§15 row", Buffer.concat([ascii("block"), u(64, 7), u(64, 12), unhex("2a")]), row);
  same("§15 checksum", sha256(row).subarray(0, 8), spec.span("\nwhich is "));
  const messages = [
    { id: 1, method: "version", params: {} }, { id: 1, ok: { version: "0.1.0" } }, { id: 2, method: "send", params: { to: "12D3", amount: 5 } },
    { id: 3, part: { module: unhex("0061736d") }, last: true }, { id: 3, event: { event: "progress", done: 1 } }, { id: 1, error },
  ];
  const stated = spec.lines("Example, one call each way").filter((line) => /^(client|node)/.test(line)).map((line) => line.split(/\s+/).slice(1).join(""));
  messages.forEach((message, at) => {
    const bytes = pack(message);
    same(`§16 message ${at + 1}`, Buffer.concat([u(32, bytes.length), bytes]), stated[at]);
  });
  const stripped = spec.lines("On the local API (§16) it is a map").filter((line) => !line.startsWith("{")).join("").replace(/\s/g, "");
  same("§18 error", pack(error), stripped);
}
