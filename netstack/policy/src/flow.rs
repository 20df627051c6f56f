//! Both ends of a packet: what the sender's policies and the receiver's say.

use core::net::IpAddr;

use crate::classifier::Classifier;
use crate::model::{Direction, Endpoint, EndpointKind, Model, Packet};
use crate::reference::{self, Stage};
use crate::verdict::{Reason, Verdict};

/// What both ends say about the first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What policies of the sender say.
    pub egress: Verdict,
    /// What policies of the receiver say.
    pub ingress: Verdict,
}

impl Judgement {
    /// True if both let it pass.
    pub fn allow(&self) -> bool {
        self.egress.allow && self.ingress.allow
    }

    /// What decided: the first end that drops it, or the receiver, or the sender if the receiver has no policy.
    pub fn deciding(&self) -> (Direction, &Verdict) {
        if !self.egress.allow || (self.ingress.allow && self.ingress.reason == Reason::NoEndpoint) {
            (Direction::Egress, &self.egress)
        } else {
            (Direction::Ingress, &self.ingress)
        }
    }
}

/// Judges a packet by the addresses' endpoints, by the reference evaluator.
pub fn judge(model: &Model, packet: &Packet) -> Judgement {
    judge_by(model, packet, |endpoint, direction, stage| {
        reference::judge(model, model.endpoints.get(endpoint)?, direction, stage, packet)
    })
}

/// Judges a packet by the addresses' endpoints, by the code that decides for packets.
pub fn classify(classifier: &Classifier, packet: &Packet) -> Judgement {
    judge_by(classifier.model(), packet, |endpoint, direction, stage| {
        classifier.judge(endpoint, direction, stage, packet)
    })
}

fn judge_by(
    model: &Model,
    packet: &Packet,
    by: impl Fn(usize, Direction, Stage) -> Option<Verdict>,
) -> Judgement {
    let end = |address| model.endpoints.iter().position(|endpoint| endpoint.addresses.contains(&address));
    let (sender, receiver) = (end(packet.source), end(packet.destination));
    if let Some(endpoint) = sender.and_then(|number| model.endpoints.get(number))
        && is_same(endpoint, packet.source, packet.destination)
    {
        let verdict = Verdict { allow: true, reason: Reason::Itself };
        return Judgement { egress: verdict.clone(), ingress: verdict };
    }
    let of_end = |number: Option<usize>, direction| {
        let endpoint = number.and_then(|number| Some((number, model.endpoints.get(number)?)));
        let Some((number, endpoint)) = endpoint else {
            return Verdict { allow: true, reason: Reason::NoEndpoint };
        };
        let stages: &[Stage] = match endpoint.kind {
            EndpointKind::Workload => &[Stage::Normal],
            EndpointKind::Host => &[Stage::Untracked, Stage::PreDnat, Stage::Normal],
        };
        let judged = stages.iter().find_map(|stage| by(number, direction, *stage));
        judged.unwrap_or(Verdict { allow: false, reason: Reason::EndOfProfiles })
    };
    Judgement { egress: of_end(sender, Direction::Egress), ingress: of_end(receiver, Direction::Ingress) }
}

/// A pod's packets to its own address do not leave it.
fn is_same(endpoint: &Endpoint, source: IpAddr, destination: IpAddr) -> bool {
    source == destination || endpoint.addresses.contains(&destination)
}
