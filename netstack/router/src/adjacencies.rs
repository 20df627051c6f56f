//! The adjacencies of the tables: one for each thing a group can lead to.

use alloc::vec::Vec;

use dataplane::{Adjacency, AdjacencyId, DropReason, InterfaceId};

use crate::groups::NeighbourKey;

/// This node itself.
pub(crate) const LOCAL: AdjacencyId = AdjacencyId(0);
/// Dropped, without a word.
pub(crate) const BLACKHOLE: AdjacencyId = AdjacencyId(1);
/// Dropped, and the sender is told.
pub(crate) const UNREACHABLE: AdjacencyId = AdjacencyId(2);

/// Whose an adjacency is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    /// The connected networks of an interface.
    Interface(InterfaceId),
    Neighbour(NeighbourKey),
}

/// All adjacencies.
pub(crate) struct Adjacencies {
    rows: Vec<(Owner, Adjacency)>,
    free: Vec<AdjacencyId>,
}

impl Adjacencies {
    pub(crate) fn new() -> Self {
        let fixed = [
            Adjacency::Local,
            Adjacency::Drop(DropReason::Blackhole),
            Adjacency::Drop(DropReason::Unreachable),
        ];
        Self { rows: fixed.map(|adjacency| (Owner::Nobody, adjacency)).into(), free: Vec::new() }
    }

    pub(crate) fn add(&mut self, owner: Owner, adjacency: Adjacency) -> AdjacencyId {
        if let Some(id) = self.free.pop() {
            self.rows[id.0 as usize] = (owner, adjacency);
            return id;
        }
        self.rows.push((owner, adjacency));
        AdjacencyId(self.rows.len() as u32 - 1)
    }

    /// Gives the number free. A worker that still has older tables finds in them what it meant there.
    pub(crate) fn remove(&mut self, id: AdjacencyId) {
        if let Some(row) = self.rows.get_mut(id.0 as usize) {
            *row = (Owner::Nobody, Adjacency::Drop(DropReason::Unreachable));
            self.free.push(id);
        }
    }

    /// Changes it; true if that makes a difference.
    pub(crate) fn set(&mut self, id: AdjacencyId, adjacency: Adjacency) -> bool {
        self.rows
            .get_mut(id.0 as usize)
            .is_some_and(|row| core::mem::replace(&mut row.1, adjacency) != adjacency)
    }

    pub(crate) fn owner(&self, id: AdjacencyId) -> Owner {
        self.rows.get(id.0 as usize).map_or(Owner::Nobody, |row| row.0)
    }

    /// For the tables.
    pub(crate) fn compile(&self) -> Vec<Adjacency> {
        self.rows.iter().map(|row| row.1).collect()
    }

    /// Rows of the tables, free ones included.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.rows.len() - self.free.len()
    }
}
