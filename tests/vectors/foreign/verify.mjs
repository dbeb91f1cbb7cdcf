// A verifier of millrace's records, written from SPEC.md alone. It shares no code with the Python.
//
//   node verify.mjs network FILE                     a network file (§8.2)
//   node verify.mjs genesis FILE                     a genesis record (§8.1)
//   node verify.mjs receipt NETWORK FILE             a receipt, with the network file alone (§7)
//   node verify.mjs ledger NETWORK FILE              final blocks, each a frame of §9: an audit (§7.2)
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
import { Violation, auditFile } from "./ledger.mjs";
import { readNetworkFile } from "./networkfile.mjs";
import {
  certificateFault, consistent, decodeFinalBlock, decodeGenesis, decodeOutcome, decodeReceipt, decodeTask, decodeTerms, decodeVoucher, entryId, headerHash,
  inclusionRoot, openEnvelope, outcomeDigest, taskDigest, termsHash, termsSigned, verifyReceipt, voucherSigned,
} from "./records.mjs";
import { Refused, WireError, accountOfPeerId, hex, need, peerId, unhex } from "./wire.mjs";

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
