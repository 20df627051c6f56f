//! A flow's first packet before all who have a say: policies of the sender, of the interfaces of this host, of the receiver.
//! It allocates nothing and formats nothing: what decided is a number, under which it is counted and found again.

use core::net::IpAddr;

use super::program::Program;
use super::{Classifier, CounterId, Host, NONE};
use crate::failsafe::Failsafe;
use crate::model::{Action, Direction, Packet};
use crate::reference::{Stage, failsafe_at};

/// A host endpoint of a classifier, of that one only: its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostId(u32);

/// Where a packet goes, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the node itself.
    ToNode,
    /// From the node itself.
    FromNode,
    /// Through it.
    Forwarded,
}

/// The host endpoints that a packet passes: of the interface that it comes in by, and of that which it leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// In by this one.
    pub from: Option<HostId>,
    /// Out by this one.
    pub to: Option<HostId>,
    /// Where it goes.
    pub way: Way,
}

/// Where policies have a say.
#[derive(Clone, Copy)]
struct Point<'a> {
    /// Of the endpoint whose policies they are; [`NONE`] has none.
    identity: u32,
    direction: Direction,
    stage: Stage,
    /// What passes there whatever policies say.
    failsafe: Option<&'a Failsafe>,
}

/// What is to be done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// True if it passes.
    pub allow: bool,
    /// What decided: who drops it, or the last who has let it pass.
    pub by: CounterId,
}

/// At most so many numbers of a kind are recorded of a packet.
const RECORDED: usize = 8;

/// A few counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Few {
    len: u8,
    counters: [CounterId; RECORDED],
}

impl Few {
    fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, counter: CounterId) {
        if let Some(place) = self.counters.get_mut(usize::from(self.len)) {
            *place = counter;
            self.len += 1;
        }
    }

    /// Those there are.
    pub fn as_slice(&self) -> &[CounterId] {
        self.counters.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What is to be noted of a judgement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// What has decided at each point.
    pub hits: Few,
    /// What would have decided if staged policies were enforced, where there are any.
    pub staged: Few,
    /// At some point, they would have dropped it.
    pub staged_denies: bool,
    /// Rules with the action `Log` that were met.
    pub logs: Few,
}

impl Record {
    /// Forgets what was noted.
    pub fn clear(&mut self) {
        self.staged_denies = false;
        [&mut self.hits, &mut self.staged, &mut self.logs].into_iter().for_each(Few::clear);
    }
}

/// Passes from tier to tier that are remembered while looking for `Log` rules; of more, rules behind them may be
/// recorded though they were not met.
const PASSES: usize = 16;

impl Classifier {
    /// The host endpoint of an interface of the node of a name, if one is about it: by the interface's name, by its
    /// addresses, or else the one about all interfaces.
    pub fn host(&self, node: &str, interface: &str, addresses: &[IpAddr]) -> Option<HostId> {
        let here = |host: &&Host| host.endpoint.node.as_deref().is_none_or(|wanted| wanted == node);
        let named = |host: &&Host| host.endpoint.interface.as_deref() == Some(interface);
        let by_address = |host: &&Host| {
            host.endpoint.interface.is_none()
                && host.endpoint.addresses.iter().any(|address| addresses.contains(address))
        };
        let all = |host: &&Host| host.endpoint.interface.as_deref() == Some("*");
        let first = |is_it: &dyn Fn(&&Host) -> bool| {
            (0..).zip(self.hosts.iter()).find(|(_, host)| here(host) && is_it(host)).map(|(place, _)| place)
        };
        first(&named).or_else(|| first(&by_address)).or_else(|| first(&all)).map(HostId)
    }

    #[inline]
    fn at_host(&self, host: HostId, stage: Stage, direction: Direction) -> Point<'_> {
        let host = self.hosts.get(host.0 as usize);
        let failsafe = host.and_then(|host| failsafe_at(&host.endpoint, stage));
        Point { identity: host.map_or(NONE, |host| host.identity), direction, stage, failsafe }
    }

    /// True if there are host endpoints.
    pub fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The classes of a packet's source and destination.
    #[inline]
    pub fn classes(&self, packet: &Packet) -> (u32, u32) {
        (self.addresses.class(packet.source), self.addresses.class(packet.destination))
    }

    /// The classes of IPv4 addresses, looked up together: as many as the shorter slice has.
    pub fn classes_of_ipv4(&self, addresses: &[u32], classes: &mut [u32]) {
        self.addresses.classes_of_ipv4(addresses, classes);
    }

    /// Judges a flow by its first packet, as it is after translation, between addresses of these classes.
    #[inline]
    pub fn judge_flow(
        &self,
        packet: &Packet,
        classes: (u32, u32),
        ends: &Ends,
        record: &mut Record,
    ) -> Judged {
        let mut by = CounterId::NOTHING;
        if packet.source == packet.destination {
            return Judged { allow: true, by };
        }
        let endpoint = |class: u32| self.endpoint_of_class.get(class as usize).copied().unwrap_or(NONE);
        let (sender, receiver) = match ends.way {
            Way::Forwarded => (endpoint(classes.0), endpoint(classes.1)),
            Way::ToNode => (endpoint(classes.0), NONE),
            // What the node itself sends reaches the endpoints that it serves.
            Way::FromNode => (NONE, NONE),
        };
        let mut passes = |point: Point<'_>| {
            let Some(judged) = self.judge_at(point, packet, classes, record) else { return true };
            by = judged.by;
            judged.allow
        };
        let of_host = if ends.way == Way::Forwarded { Stage::Forward } else { Stage::Normal };
        let workload =
            |identity, direction| Point { identity, direction, stage: Stage::Normal, failsafe: None };
        let allow = passes(workload(sender, Direction::Egress))
            && ends.from.is_none_or(|host| passes(self.at_host(host, of_host, Direction::Ingress)))
            && ends.to.is_none_or(|host| passes(self.at_host(host, of_host, Direction::Egress)))
            && passes(workload(receiver, Direction::Ingress));
        Judged { allow, by }
    }

    /// Judges a packet that comes in, before its destination is translated. None if nothing says anything.
    #[inline]
    pub fn judge_before_translation(
        &self,
        packet: &Packet,
        from: HostId,
        record: &mut Record,
    ) -> Option<Judged> {
        let at = self.at_host(from, Stage::PreDnat, Direction::Ingress);
        self.judge_at(at, packet, self.classes(packet), record)
    }

    /// Judges a packet that has no flow. None if nothing says anything.
    #[inline]
    pub fn judge_untracked(
        &self,
        packet: &Packet,
        host: HostId,
        direction: Direction,
        record: &mut Record,
    ) -> Option<Judged> {
        let at = self.at_host(host, Stage::Untracked, direction);
        self.judge_at(at, packet, self.classes(packet), record)
    }

    /// True if policies of a host endpoint are asked at a stage.
    pub fn asks(&self, host: HostId, stage: Stage, direction: Direction) -> bool {
        let Point { identity, .. } = self.at_host(host, stage, direction);
        let program = self.program_of(identity, stage, direction, true);
        program.and_then(|number| self.program(number)).is_some_and(|program| !program.lines.is_empty())
    }

    #[inline]
    fn judge_at(
        &self,
        Point { identity, direction, stage, failsafe }: Point<'_>,
        packet: &Packet,
        classes: (u32, u32),
        record: &mut Record,
    ) -> Option<Judged> {
        let number = self.program_of(identity, stage, direction, true)?;
        if failsafe.is_some_and(|failsafe| failsafe.has(direction, packet)) {
            record.hits.push(CounterId::FAILSAFE);
            return Some(Judged { allow: true, by: CounterId::FAILSAFE });
        }
        if let Some(staged) = self.program_of(identity, stage, direction, false) {
            let would_be = self.run(staged, stage, packet, classes, &mut Few::default());
            record.staged.push(would_be.map_or(CounterId::NOTHING, |judged| judged.by));
            record.staged_denies |= would_be.is_some_and(|judged| !judged.allow);
        }
        let judged = self.run(number, stage, packet, classes, &mut record.logs);
        if let Some(judged) = judged {
            record.hits.push(judged.by);
        }
        judged
    }

    #[inline]
    fn run(
        &self,
        number: u32,
        stage: Stage,
        packet: &Packet,
        classes: (u32, u32),
        logs: &mut Few,
    ) -> Option<Judged> {
        let program = self.program(number)?;
        let place = match program.logs.is_empty() {
            true => program.decide(packet, classes, &self.members, |_, _| {}),
            false => self.run_with_logs(program, packet, classes, logs),
        };
        match place {
            Some(place) => {
                let line = program.lines.get(place as usize)?;
                Some(Judged { allow: line.action == Action::Allow, by: CounterId(line.counter) })
            }
            None if stage == Stage::Forward => Some(Judged { allow: true, by: CounterId::NOTHING_FORBIDS }),
            None => None,
        }
    }

    /// The place of the rule that decides, and before it, what is logged.
    #[inline(never)]
    fn run_with_logs(
        &self,
        program: &Program,
        packet: &Packet,
        classes: (u32, u32),
        logs: &mut Few,
    ) -> Option<u32> {
        let mut passes = [(0, 0); PASSES];
        let mut passed = 0;
        let place = program.decide(packet, classes, &self.members, |place, tier_end| {
            if let Some(pass) = passes.get_mut(passed) {
                *pass = (place, tier_end);
                passed += 1;
            }
        });
        for log in program.logs.iter().take_while(|log| place.is_none_or(|place| **log < place)) {
            let skipped = passes.iter().any(|(place, tier_end)| (*place..*tier_end).contains(log));
            if !skipped && program.line_matches(*log, packet, classes, &self.members) {
                logs.push(CounterId(program.lines.get(*log as usize).map_or(0, |line| line.counter)));
            }
        }
        place
    }
}
