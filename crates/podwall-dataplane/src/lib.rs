//! How does the kernel come to decide as the tables say?
//!
//! ```text
//!   podwall-compile ── NodeTables, Delta ──▶ DataPlane ──▶ kernel of one network namespace
//!                                              ├ Ebpf       (netfilter programs and maps, pinned)
//!                                              └ Nftables   (own table, sets and maps, netlink)
//! ```
//!
//! A data plane decides each packet in the original direction of its connection after destination
//! NAT and before source NAT, as [`NodeTables::decide`] does, and lets replies and ICMP errors of
//! known connections pass. What it puts into the kernel outlives it: a process that starts takes
//! over what the one before left, and at no moment is nothing enforced.

pub mod bridge;
mod choice;
mod counters;
mod denied;
mod drift;
pub mod ebpf;
mod error;
mod follow;
pub mod guard;
mod limits;
mod namespace;
mod netlink;
mod nft;
mod sample;

use std::time::Duration;

use podwall_compile::tables::{Delta, NodeTables};

pub use crate::choice::{Choice, Chosen};
pub use crate::counters::Counters;
pub use crate::denied::{Account, Denials, Denied};
pub use crate::drift::Drift;
pub use crate::ebpf::Ebpf;
pub use crate::error::Error;
pub use crate::follow::follow;
pub use crate::limits::{Fill, Limits, POD_RANGES, Table, TableFill, Why};
pub use crate::namespace::Namespace;
pub use crate::nft::{Config, Log, Nftables};

/// The kernel's side of one node. Opened in a network namespace, used from any thread.
pub trait DataPlane: Send {
    /// `ebpf` or `nftables`.
    fn name(&self) -> &'static str;

    /// Makes the kernel hold these tables and nothing else, whatever it held before: nothing, what
    /// an earlier process left, or a layout of an older version. Packets meet either the old tables
    /// or the new ones.
    ///
    /// # Errors
    /// The kernel refuses. It then holds what it held before.
    fn replace(&mut self, tables: &NodeTables) -> Result<(), Error>;

    /// Makes one change, all at once. It may count on what [`Self::replace`] and `update` have put
    /// there; if somebody else has changed it, the whole is put right.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] before the first `replace`; the kernel refuses, and holds what it held
    /// before.
    fn update(&mut self, delta: &Delta) -> Result<(), Error>;

    /// Does a part of what can wait until changes pause, for speed alone: to be called when nothing
    /// else is to be done, some milliseconds at most. `None`: nothing is left until the next change;
    /// else, how long to wait before the next call.
    ///
    /// # Errors
    /// The kernel refuses. Everything is enforced as before; a later call tries again.
    fn settle(&mut self) -> Result<Option<Duration>, Error> {
        Ok(None)
    }

    /// Compares what the kernel holds with what it should hold; changes nothing. Empty: as it
    /// should be.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn verify(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error>;

    /// As [`Self::verify`], at a price that does not grow with the tables: whether what should meet
    /// packets is there and whole, and whether the entries of local addresses and some of the others
    /// are as they should be.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn glance(&mut self, tables: &NodeTables) -> Result<Vec<Drift>, Error>;

    /// Follows packets that are dropped from now on, as far as the kernel reports them. One
    /// follower at a time gets all of them.
    ///
    /// # Errors
    /// Nothing is loaded yet, reports were not asked for, or the kernel refuses.
    fn denials(&mut self) -> Result<Denials, Error>;

    /// Packets that rules allowed or denied, and packets that none allowed, since each rule and class
    /// came; see [`Counters`] for what counts.
    ///
    /// # Errors
    /// Nothing is loaded, or the kernel cannot be asked.
    fn counters(&mut self) -> Result<Counters, Error>;

    /// How full the tables are that came into force last, and what had to be left out because it
    /// did not fit ([`Limits`]).
    fn fill(&self) -> Fill;

    /// What these tables are in the kernel, as text for people.
    fn text(&self, tables: &NodeTables) -> String;

    /// Takes everything of ours out of the kernel: nothing is enforced any more. Nothing there is
    /// no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove(&mut self) -> Result<(), Error>;
}
