//! The classifier: what decides for packets. It says what [`crate::reference`] says, at a cost that hardly depends on how many
//! rules there are.
//!
//! Made from a model by a [`Compiler`], off the data path, and immutable but for the table of addresses:
//! 1. `atoms` finds what rules can tell apart, and evaluates selectors for all of it at once;
//! 2. `classes` gives each address a class, by longest prefix match;
//! 3. `sets` and `rules` turn rules on addresses into rules on classes;
//! 4. `program` makes tables for each direction of each group of endpoints with the same policies.
//!
//! A decision is then: two classes, one or two searches in a sorted list of keys, and as a rule one candidate. What a change of
//! the model does not touch, one classifier shares with the next: `compiler`.
//!
//! [`Classifier::judge_flow`] asks all that have a say about a flow's first packet.

mod atoms;
mod bits;
mod classes;
mod compiler;
mod judge;
mod origin;
mod program;
mod programs;
mod rules;
mod sets;
mod table;

use alloc::{sync::Arc, vec::Vec};

use crate::model::{Action, Direction, Endpoint, Model, Packet};
use crate::reference::{Stage, failsafe_at};
use crate::verdict::{Reason, Verdict};
use classes::Addresses;
pub use classes::OutOfMemory;
pub use compiler::Compiler;
pub use judge::{Ends, Few, HostId, Judged, Record, Way};
use origin::Counters;
pub use origin::{COUNTERS_MAX, CounterId, Part, Source, Written};
use program::Program;
use rules::Members;

const STAGES: [Stage; 4] = [Stage::Normal, Stage::Forward, Stage::PreDnat, Stage::Untracked];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Of each identity, a program for each stage and direction: the enforced one, and the one that would be with staged
/// policies, if there are any.
const PROGRAMS_OF_IDENTITY: usize = STAGES.len() * DIRECTIONS.len() * 2;

/// No such number.
const NONE: u32 = u32::MAX;

/// Decides for packets of a model's endpoints.
#[derive(Clone)]
pub struct Classifier {
    model: Arc<Model>,
    addresses: Addresses,
    members: Members,
    programs: Vec<Option<Arc<Program>>>,
    of_identity: Arc<Vec<[u32; PROGRAMS_OF_IDENTITY]>>,
    /// The identity of the endpoint that has a class, if one has.
    endpoint_of_class: Arc<Vec<u32>>,
    /// For each endpoint of the model, its identity.
    of_endpoint: Vec<u32>,
    hosts: Arc<[Host]>,
    updates: u64,
    counters: Arc<Counters>,
}

/// A host endpoint.
struct Host {
    endpoint: Arc<Endpoint>,
    identity: u32,
}

/// What was decided; [`Classifier::reason`] says by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// True if the packet passes.
    pub allow: bool,
    program: u32,
    /// The place of the line; [`END`] and [`FAILSAFE`] are none.
    place: u32,
}

const END: u32 = u32::MAX;
const FAILSAFE: u32 = u32::MAX - 1;

impl Classifier {
    /// Compiles a model from nothing.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(model: Arc<Model>) -> Result<Classifier, OutOfMemory> {
        let mut compiler = Compiler::new()?;
        let classifier = compiler.update(model)?;
        compiler.apply()?;
        Ok(classifier)
    }

    /// The same decisions while addresses move: of the classifier before the newest of `compiler`, if that has some to move.
    pub fn awaiting(&self, compiler: &Compiler) -> Classifier {
        Classifier { addresses: compiler.addresses_before(), ..self.clone() }
    }

    /// The model it was made from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// How many models its compiler has compiled: it tells a compiler's classifiers apart.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Decides about a packet of the endpoint of a number, which is its place in the model. None as in
    /// [`crate::reference::judge`].
    pub fn decide(
        &self,
        endpoint: usize,
        direction: Direction,
        stage: Stage,
        packet: &Packet,
    ) -> Option<Decision> {
        let failsafe = failsafe_at(self.model.endpoints.get(endpoint)?, stage);
        let number = self.program_of(*self.of_endpoint.get(endpoint)?, stage, direction, true)?;
        if failsafe.is_some_and(|failsafe| failsafe.has(direction, packet)) {
            return Some(Decision { allow: true, program: number, place: FAILSAFE });
        }
        let program = self.program(number)?;
        match program.decide(packet, self.classes(packet), &self.members, |_, _| {}) {
            Some(place) => {
                let allow = program.lines.get(place as usize)?.action == Action::Allow;
                Some(Decision { allow, program: number, place })
            }
            None if stage == Stage::Forward => Some(Decision { allow: true, program: number, place: END }),
            None => None,
        }
    }

    #[inline]
    fn program_of(&self, identity: u32, stage: Stage, direction: Direction, enforced: bool) -> Option<u32> {
        let programs = self.of_identity.get(identity as usize)?;
        programs.get(place_of(stage, direction, enforced)).copied().filter(|number| *number != NONE)
    }

    #[inline]
    fn program(&self, number: u32) -> Option<&Program> {
        self.programs.get(number as usize)?.as_deref()
    }

    /// What decided.
    pub fn reason(&self, decision: Decision) -> Option<Reason> {
        let program = self.program(decision.program)?;
        match decision.place {
            FAILSAFE => Some(Reason::Failsafe),
            END => Some(Reason::NothingForbids { policies: program.has_policies }),
            place => program.lines.get(place as usize)?.origin.reason(),
        }
    }

    /// [`Classifier::decide`] and [`Classifier::reason`] in one.
    pub fn judge(
        &self,
        endpoint: usize,
        direction: Direction,
        stage: Stage,
        packet: &Packet,
    ) -> Option<Verdict> {
        let decision = self.decide(endpoint, direction, stage, packet)?;
        Some(Verdict { allow: decision.allow, reason: self.reason(decision)? })
    }

    /// How many counters there are to count with: all numbers are below.
    pub fn counters(&self) -> u32 {
        self.counters.end()
    }

    /// What a counter counts.
    pub fn source(&self, counter: CounterId) -> Option<(&Arc<Source>, Part)> {
        self.counters.source(counter)
    }

    /// All policies and profiles in force.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.counters.sources()
    }

    /// How many programs there are.
    pub fn programs(&self) -> usize {
        self.programs.iter().flatten().count()
    }
}

/// Where the program of a stage and direction is among those of an identity.
const fn place_of(stage: Stage, direction: Direction, enforced: bool) -> usize {
    let stage = match stage {
        Stage::Normal => 0,
        Stage::Forward => 1,
        Stage::PreDnat => 2,
        Stage::Untracked => 3,
    };
    let direction = matches!(direction, Direction::Egress) as usize;
    stage * 4 + direction * 2 + !enforced as usize
}
