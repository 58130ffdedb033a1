//! Which data plane does a node get?
//!
//! ```text
//!   auto ──▶ can this kernel load the eBPF program here? ── yes ──▶ ebpf
//!                                                        └─ no ───▶ nftables, and why
//! ```

use std::fmt;
use std::str::FromStr;

use crate::{Config, DataPlane, Ebpf, Error, Nftables, ebpf};

/// Which data plane is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Choice {
    /// `ebpf` where the kernel can, else `nftables`.
    #[default]
    Auto,
    /// eBPF programs on netfilter's hooks.
    Ebpf,
    /// nftables.
    Nftables,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
        })
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Auto, Self::Ebpf, Self::Nftables]
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or_else(|| {
                Error::Config(format!("{text:?} is no data plane; take auto, ebpf or nftables"))
            })
    }
}

/// A data plane that was chosen.
pub struct Chosen {
    /// The data plane.
    pub plane: Box<dyn DataPlane>,
    /// Why it is not eBPF although that was preferred.
    pub instead: Option<Error>,
}

impl Chosen {
    /// Why it is not eBPF although that was preferred, as `auto` says it: the next step that the
    /// error names has been taken.
    pub fn reason(&self) -> Option<String> {
        self.instead.as_ref().map(|error| match error {
            Error::NoEbpf(missing) => format!("ebpf is not possible here: {missing}"),
            other => format!("ebpf is not possible here: {other}"),
        })
    }
}

impl Choice {
    /// Opens the data plane in the calling thread's network namespace. `auto` gives the same on
    /// every call as long as kernel and privileges stay the same.
    ///
    /// # Errors
    /// The one that was asked for, or nftables where `auto` came to it, cannot be opened.
    pub fn open(self, ebpf: ebpf::Config, nftables: Config) -> Result<Chosen, Error> {
        let instead = match self {
            Self::Nftables => None,
            Self::Ebpf => {
                Ebpf::check()?;
                return Ok(Chosen { plane: Box::new(Ebpf::open(ebpf)?), instead: None });
            }
            Self::Auto => match Ebpf::check().and_then(|()| Ebpf::open(ebpf)) {
                Ok(plane) => return Ok(Chosen { plane: Box::new(plane), instead: None }),
                Err(why) => Some(why),
            },
        };
        Ok(Chosen { plane: Box::new(Nftables::open(nftables)?), instead })
    }
}
