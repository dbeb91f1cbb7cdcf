// A verifier of millrace's records, written from SPEC.md alone. It shares no code with the Python.
//
//   node verify.mjs network FILE                     a network file (§8.2)
//   node verify.mjs genesis FILE                     a genesis record (§8.1)
//   node verify.mjs receipt NETWORK FILE             a receipt, with the network file alone (§7)
//   node verify.mjs ledger NETWORK FILE              final blocks, each a frame of §9: an audit (§7.2)
//   node verify.mjs probes NETWORK FILE              {blocks, probes: [[height, block]…]}: what an audit says to each block there (§7.2)
//   node verify.mjs base NETWORK FILE                {block, snapshot, peaks, handovers, blocks}: an audit from a snapshot (R7.21)
//   node verify.mjs snapshot NETWORK FILE            a state in bytes, and its root (§4.6)
//   node verify.mjs chunk NETWORK FILE               {root, size, chunks_root, index, data, path}: a piece of one (R15.29)
//   node verify.mjs follow NETWORK FILE              [{head | handover, path}…]: what a light client says to each (§7.3)
//   node verify.mjs split NETWORK HEAD HEAD          whether two certified headers are of two chains (R7.13)
//   node verify.mjs evidence NETWORK FILE [HANDOVER…]  who lied (§7.4)
//   node verify.mjs entry NETWORK FILE               an entry's form and id (§3)
//   node verify.mjs block NETWORK FILE               one final block's form and certificate (§6)
//   node verify.mjs voucher NETWORK FILE PAYER       PAYER is a peer id (§3.3)
//   node verify.mjs terms NETWORK FILE BUYER-SIGNATURE WORKER-SIGNATURE   signatures in hex (§12.1)
//   node verify.mjs envelope NETWORK FILE NOW_MS     an advert or its withdrawal (§10)
//   node verify.mjs task FILE                        a task's form and digest (§13.1)
//   node verify.mjs outcome FILE                     an outcome's (§13.5)
//   node verify.mjs examples SPEC.md                 every example of the text, computed anew
//   node verify.mjs signatures FILE                  list of {pk, msg, sig} or speccheck's form: which are accepted (§2.3)
//   node verify.mjs proofs FILE                      RFC 6962 probes (§5)
//   node verify.mjs batch FILE                       a JSON list of such argument lists, answered in one list
//
// A record's FILE may be hex:…, the bytes themselves; the answer is JSON: {"ok": true, …} or {"ok": false, "error": name in SPEC.md, "detail": …}.
import { readFileSync } from "node:fs";
import { strictKey, verifyBytes } from "./ed25519.mjs";
import { examples } from "./examples.mjs";
import { LightClient, decodeEvidence, evidenceEpoch, evidenceHolds, guilty, parting, split } from "./evidence.mjs";
import { Replay, Violation, auditFile } from "./ledger.mjs";
import { readNetworkFile } from "./networkfile.mjs";
import {
  certificateFault, consistent, decodeEntry, decodeFinalBlock, decodeGenesis, decodeOutcome, decodeReceipt, decodeTask, decodeTerms, decodeVoucher, entryId, handedOver,
  headerHash, inclusionRoot, openEnvelope, outcomeDigest, readCertifiedHeader, readHandover, taskDigest, termsHash, termsSigned, verifyReceipt, voucherSigned,
} from "./records.mjs";
import { chunkHolds, readSnapshot, replayFrom, twin } from "./snapshot.mjs";
import { Refused, WireError, accountOfPeerId, hex, need, peerId, unhex, whole } from "./wire.mjs";

const load = (word) => (word.startsWith("hex:") ? unhex(word.slice(4)) : readFileSync(word));
const genesisOf = (path) => readNetworkFile(readFileSync(path)).genesis;
const said = (genesis) => ({
  name: genesis.name,
  network_id: hex(genesis.networkId),
  witnesses: genesis.witnesses.map(peerId),
  faults: genesis.faults,
  quorum: genesis.quorum,
});

const commands = {
  network(path) {
    const file = readNetworkFile(load(path));
    return { ...said(file.genesis), bootstrap: file.bootstrap };
  },
  genesis: (path) => said(decodeGenesis(load(path))),
  receipt(network, path) {
    const genesis = genesisOf(network);
    const receipt = decodeReceipt(load(path));
    verifyReceipt(receipt, genesis);
    const { entry, index, header } = receipt;
    return {
      entry: hex(entryId(entry, genesis.networkId)), type: entry.type, account: peerId(entry.account), index: Number(index), height: Number(header.height),
    };
  },
  ledger: (network, path) => auditFile(genesisOf(network), load(path)),
  probes(network, path) {
    const { blocks, probes } = JSON.parse(load(path));
    const replay = new Replay(genesisOf(network));
    const found = probes.map(() => null);
    blocks.concat([null]).forEach((block, at) => {
      probes.forEach(([height, probe], place) => {
        if (height === at + 1) found[place] = violation(() => twin(replay).block(unhex(probe)));
      });
      if (block !== null) replay.block(unhex(block));
    });
    return { found, ...replay.report() };
  },
  base(network, path) {
    const genesis = genesisOf(network);
    const { block, snapshot, peaks, handovers, blocks } = JSON.parse(load(path));
    const proven = handovers?.length ? handedOver(genesis, handovers.map((each) => whole(unhex(each), readHandover))) : null;
    if (handovers?.length && !proven) throw new Refused("handover");
    const replay = replayFrom(genesis, { block: unhex(block), snapshot: unhex(snapshot), peaks: peaks.map(unhex) }, proven);
    const began = Number(replay.parent.height);
    for (const each of blocks) replay.block(unhex(each));
    return { began, proven: proven !== null || replay.baseEpoch === 0, ...replay.report() };
  },
  snapshot(network, path) {
    const books = readSnapshot(genesisOf(network), load(path));
    return { state_root: hex(books.root()), canonical: books.snapshot().equals(load(path)) };
  },
  chunk(network, path) {
    const { root, size, chunks_root, index, data, path: nodes } = JSON.parse(load(path));
    const given = { networkId: genesisOf(network).networkId, root: unhex(root), size: BigInt(size), chunksRoot: unhex(chunks_root), index: BigInt(index) };
    if (!chunkHolds({ ...given, data: unhex(data), path: nodes.map(unhex) })) throw new Refused("chunk");
    return {};
  },
  follow(network, path) {
    const client = new LightClient(genesisOf(network));
    const said = JSON.parse(load(path)).map(({ head, handover, path: proof }) => {
      const nodes = proof.map(unhex);
      return head ? client.advance(whole(unhex(head), readCertifiedHeader), nodes) : client.handOver(whole(unhex(handover), readHandover), nodes);
    });
    return { said, ...client.held() };
  },
  split(network, ...paths) {
    const { networkId } = genesisOf(network);
    const [one, other] = paths.map((path) => whole(load(path), readCertifiedHeader));
    return { split: split(one, other, networkId), height: Number(parting(one, other, networkId) ?? -1n) };
  },
  evidence(network, path, ...handovers) {
    const genesis = genesisOf(network);
    const evidence = decodeEvidence(load(path));
    const chain = handovers.map((each) => whole(load(each), readHandover));
    const committee = handedOver(genesis, chain.slice(0, evidenceEpoch(evidence)));
    if (committee?.epoch !== evidenceEpoch(evidence)) throw new Refused("handover");
    if (!evidenceHolds(evidence, committee)) throw new Refused("evidence");
    const [culprits, suspects] = guilty(evidence, committee);
    return { type: evidence.type, culprits: culprits.map(peerId), suspects: suspects.map(peerId) };
  },
  entry(network, path) {
    const entry = decodeEntry(load(path));
    return { type: entry.type, id: hex(entryId(entry, genesisOf(network).networkId)) };
  },
  block(network, path) {
    const genesis = genesisOf(network);
    const { header, entries, certificate } = decodeFinalBlock(load(path));
    const hash = headerHash(header, genesis.networkId);
    if (!certificate.blockHash.equals(hash)) throw new Refused("certificate", "another block");
    const fault = certificateFault(certificate, genesis);
    if (fault) throw new Refused(fault === "quorum" ? "quorum" : "certificate", fault);
    return { hash: hex(hash), height: Number(header.height), entries: entries.length };
  },
  voucher(network, path, payer) {
    const genesis = genesisOf(network);
    const voucher = decodeVoucher(load(path));
    const account = accountOfPeerId(payer);
    need(strictKey(account), "the payer is not a strict key");
    if (!voucherSigned(voucher, account, genesis.networkId)) throw new Refused("bad_voucher");
    return { lock_id: hex(voucher.lockId), cumulative: String(voucher.cumulative) };
  },
  terms(network, path, buyerSignature, workerSignature) {
    const { networkId } = genesisOf(network);
    const terms = decodeTerms(load(path));
    const good = termsSigned(terms, terms.buyer, unhex(buyerSignature), networkId) && termsSigned(terms, terms.worker, unhex(workerSignature), networkId);
    if (!good) throw new Refused("signature");
    return { terms_hash: hex(termsHash(terms, networkId)), buyer: peerId(terms.buyer), worker: peerId(terms.worker), amount: String(terms.amount) };
  },
  envelope(network, path, now) {
    const envelope = openEnvelope(load(path), genesisOf(network).networkId, BigInt(now));
    const { advert } = envelope;
    return {
      id: hex(envelope.id),
      author: peerId(envelope.author),
      sequence: String(envelope.sequence),
      withdrawn: !advert,
      ...(advert ? { kinds: advert.kinds, slots_free: Number(advert.slots_free), addresses: advert.addresses } : {}),
    };
  },
  task(path) {
    const bytes = load(path);
    return { entry: decodeTask(bytes).entry, digest: hex(taskDigest(bytes)) };
  },
  outcome(path) {
    const outcome = decodeOutcome(load(path));
    return { status: outcome.status, digest: hex(outcomeDigest(outcome)) };
  },
  examples(path) {
    const all = examples(readFileSync(path, "utf8"));
    const wrong = all.filter((example) => !example.ok);
    if (wrong.length) throw new Refused("examples", JSON.stringify(wrong));
    return { reproduced: all.length };
  },
  signatures(path) {
    const accepted = JSON.parse(readFileSync(path, "utf8")).flatMap((test, at) => {
      const [key, message, signature] = [test.pk ?? test.pub_key, test.msg ?? test.message, test.sig ?? test.signature].map(unhex);
      return verifyBytes(key, message, signature) ? [test.tcId ?? at] : [];
    });
    return { accepted };
  },
  proofs(path) {
    const bytes = (text) => Buffer.from(text ?? "", "base64");
    const wrong = [];
    for (const test of JSON.parse(readFileSync(path, "utf8"))) {
      const proof = (test.proof ?? []).map(bytes);
      let good;
      if ("size1" in test) {
        good = consistent(BigInt(test.size1), BigInt(test.size2), bytes(test.root1), bytes(test.root2), proof);
      } else {
        const root = inclusionRoot(bytes(test.leafHash), BigInt(test.leafIdx), BigInt(test.treeSize), proof);
        good = root !== null && root.equals(bytes(test.root));
      }
      if (good === test.wantErr) wrong.push(test.name);
    }
    return { disagrees: wrong };
  },
  batch: (path) => ({ answers: JSON.parse(readFileSync(path, "utf8")).map(answer) }),
};

/** The rule that `act` finds broken, its height and reason, or null. */
function violation(act) {
  try {
    act();
    return null;
  } catch (error) {
    if (error instanceof Violation) return { rule: error.rule, detail: error.message, ...error.where };
    throw error;
  }
}

function answer([name, ...words]) {
  try {
    need(Object.hasOwn(commands, name), `no such command: ${name}`);
    return { ok: true, ...commands[name](...words) };
  } catch (error) {
    if (error instanceof WireError) return { ok: false, error: "WireError", detail: error.message };
    if (error instanceof Refused) return { ok: false, error: error.reason, detail: error.message };
    if (error instanceof Violation) return { ok: false, error: error.rule, detail: error.message, ...error.where };
    throw error; // a defect here, or a file that is not there: no verdict
  }
}

const result = answer(process.argv.slice(2));
process.stdout.write(JSON.stringify(result, null, 1) + "\n");
process.exitCode = result.ok ? 0 : 1;
