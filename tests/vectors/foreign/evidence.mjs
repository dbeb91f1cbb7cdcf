// Light clients, split views and evidence (SPEC.md §7.3, §7.4).
import { KIND, signingBytes, verifyBytes } from "./ed25519.mjs";
import {
  committeeOf, consistent, decodeVote, handoverHolds, headFault, headerHash, readCertifiedHeader, readHeader, voteSigned,
} from "./records.mjs";
import { ZERO32, hex, need, whole } from "./wire.mjs";

const same = (a, b) => a.epoch === b.epoch && a.slot === b.slot;

/** R7.16. */
export function decodeEvidence(bytes) {
  return whole(bytes, (r) => {
    const type = r.u8();
    need(type >= 1 && type <= 3, "type of evidence");
    const [first, second] = [0, 1].map(() => {
      const from = r.at;
      const statement = STATEMENTS[type](r);
      return { ...statement, bytes: r.bytes.subarray(from, r.at) };
    });
    need(Buffer.compare(first.bytes, second.bytes) < 0, "statements out of order");
    need(CONTRADICT[type](first, second), "statements that do not contradict each other");
    return { type, first, second };
  });
}
const STATEMENTS = {
  1: (r) => decodeVote(r.take(141)),
  2: (r) => ({ header: readHeader(r), signature: r.take(64) }),
  3: readCertifiedHeader,
};
const CONTRADICT = {
  1(a, b) {
    if (!same(a, b) || !a.witness.equals(b.witness)) return false;
    const kinds = [a.kind, b.kind].sort();
    if (kinds.includes(KIND.SKIP)) return kinds.includes(KIND.FINAL);
    return !a.blockHash.equals(b.blockHash);
  },
  2: (a, b) => same(a.header, b.header) && !a.header.bytes.equals(b.header.bytes),
  3: (a, b) => a.header.epoch === b.header.epoch,
};
export const evidenceEpoch = ({ type, first }) => (type === 1 ? first.epoch : first.header.epoch);

/** R7.17. */
export function evidenceHolds({ type, first, second }, committee) {
  return [first, second].every((each) => STATED[type](each, committee)) && (type !== 3 || parting(first, second, committee.networkId) !== null);
}
const STATED = {
  1: (vote, { networkId, witnesses }) => witnesses.some((one) => one.equals(vote.witness)) && voteSigned(vote, networkId),
  2: ({ header, signature }, { networkId, leader }) =>
    verifyBytes(leader(header.slot), signingBytes(KIND.PROPOSAL, networkId, header.bytes), signature),
  3: (head, committee) => headFault(head, committee) === null,
};
/** R7.18: [who is proved guilty, of whom more than f lied]. */
export function guilty({ type, first, second }, { witnesses, leader }) {
  if (type === 1) return [[first.witness], []];
  if (type === 2) return [[leader(first.header.slot)], []];
  const [lower, higher] = [first, second].map((head) => head.certificate).sort((a, b) => (a.slot < b.slot ? -1 : 1));
  if (lower.slot !== higher.slot) return [[], lower.signers.map((at) => witnesses[at])];
  return [lower.signers.filter((at) => higher.signers.includes(at)).map((at) => witnesses[at]), []];
}

/** R7.13: height → hex of the hash of each block that a certified header names. */
function names({ header, descendants }, networkId) {
  const named = new Map([[header.height - 1n, hex(header.parentHash)]]);
  for (const each of [header, ...descendants]) named.set(each.height, hex(headerHash(each, networkId)));
  return named;
}
/** The lowest height at which the two name different blocks. */
export function parting(one, other, networkId) {
  const named = names(other, networkId);
  const differ = [...names(one, networkId)].filter(([height, hash]) => named.has(height) && named.get(height) !== hash);
  return differ.length ? differ.map(([height]) => height).sort((a, b) => (a < b ? -1 : 1))[0] : null;
}
export function split(one, other, networkId) {
  if (one.header.epoch === other.header.epoch && parting(one, other, networkId) !== null) return true;
  const [a, b] = [one.header, other.header];
  if (a.treeSize === b.treeSize && !a.logRoot.equals(b.logRoot)) return true;
  const [low, high] = before(a, b) ? [a, b] : [b, a];
  if (low.treeSize > high.treeSize) return true;
  return low.epoch === high.epoch && (low.height > high.height || low.time > high.time);
}
const before = (a, b) => (a.epoch === b.epoch ? a.slot <= b.slot : a.epoch < b.epoch);

/** R7.12: what the client said to each of what it was shown; null is taken. */
export class LightClient {
  constructor(genesis) {
    this.committee = committeeOf(genesis.networkId, 0, genesis.witnesses);
    this.head = null;
  }
  advance(head, proof) {
    if (head.header.epoch !== this.committee.epoch) return "epoch";
    if (headFault(head, this.committee)) return "certificate";
    const refusal = this.compare(head, proof, false);
    if (!refusal) this.head = head;
    return refusal;
  }
  handOver(handover, proof) {
    if (handover.header.epoch !== this.committee.epoch) return "epoch";
    if (!handoverHolds(handover, this.committee)) return "handover";
    const refusal = this.compare(handover, proof, true);
    if (refusal) return refusal;
    if (this.head) this.head = handover;
    this.committee = committeeOf(this.committee.networkId, this.committee.epoch + 1, handover.entry.witnesses);
    return null;
  }
  compare(head, proof, handing) {
    const held = this.head;
    if (!held || head.headBytes.equals(held.headBytes)) return null;
    const [old, next] = [held.header, head.header];
    const behind = next.epoch > old.epoch && next.height <= old.height; // held is the block that ended the epoch
    if (behind || split(held, head, this.committee.networkId)) return "split";
    if (next.height < old.height) {
      if (!handing) return "stale";
      return next.treeSize === old.treeSize && next.logRoot.equals(old.logRoot) ? null : "split";
    }
    return consistent(old.treeSize, next.treeSize, old.logRoot, next.logRoot, proof) ? null : "consistency";
  }
  held() {
    return { epoch: this.committee.epoch, height: this.head ? Number(this.head.header.height) : 0, log_root: this.head ? hex(this.head.header.logRoot) : hex(ZERO32) };
  }
}
