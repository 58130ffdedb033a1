//! What can go wrong between Podwall and the kernel, in words for the operator.

use std::io;

use podwall_policy::address::Family;

/// Why a data plane could not do what it was asked. Unless a variant says otherwise, the kernel
/// holds what it held before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket.
    #[error("cannot {doing}: {source}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No right to change nftables in this network namespace.
    #[error(
        "the kernel refuses changes of nftables: CAP_NET_ADMIN is needed in this network \
         namespace (run as root, or inside `unshare -rn`)"
    )]
    Permission,
    /// The eBPF data plane is not possible here.
    #[error("ebpf is not possible here: {0}; take --dataplane auto or nftables")]
    NoEbpf(#[from] crate::ebpf::Missing),
    /// The kernel refused something about eBPF.
    #[error("cannot {doing}: {answer:#}")]
    Bpf {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        answer: libbpf_rs::Error,
    },
    /// A file or directory of the bpffs.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: std::path::PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The kernel is too old for the ruleset.
    #[error("Linux {release} is too old: this data plane needs {needs} or later ({reason})")]
    Kernel {
        /// What runs, as in `uname -r`.
        release: String,
        /// What is needed.
        needs: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A configuration that the kernel would not take.
    #[error("{0}")]
    Config(String),
    /// The kernel refused one part of a change, and with it all of it.
    #[error("the kernel refuses {what}: {source}{}", detail(.text.as_deref()))]
    Refused {
        /// The part: an element, a set, a chain, a rule.
        what: String,
        /// Its answer.
        source: io::Error,
        /// Its own words, if it has any (extended acknowledgement).
        text: Option<String>,
    },
    /// A table of that name is there and was not made by Podwall.
    #[error(
        "nftables table {family} {table} is there already and was not made by Podwall; \
         delete it or choose another table name"
    )]
    Foreign {
        /// The table's family.
        family: &'static str,
        /// The table's name.
        table: String,
    },
    /// A change was asked for before anything was loaded.
    #[error("there is nothing to change yet: load full tables first")]
    NotLoaded,
    /// The kernel's answer got lost, so it is not known whether the change was made. The next
    /// change reads back what the kernel holds.
    #[error("the kernel's answer to a change of nftables was lost ({0}); load full tables again")]
    Lost(String),
    /// Not even the rules alone fit into a transaction.
    #[error(
        "a change of nftables may have {capacity} bytes here, which is too few: \
         raise net.core.wmem_max on the machine"
    )]
    TooLarge {
        /// The limit.
        capacity: usize,
    },
    /// More local addresses than the limit, which cannot be left out safely.
    #[error(
        "the tables want {wanted} {table}, and the limit is {size}: nothing was changed, since a \
         local address that is left out would be open; raise the limit (`{table}=N`)"
    )]
    Full {
        /// The kind of table, by its name in the limits.
        table: &'static str,
        /// Entries that there would be.
        wanted: usize,
        /// Entries that there may be.
        size: usize,
    },
    /// Source addresses cannot be guarded by this kernel.
    #[error(
        "source addresses cannot be guarded here: the kernel refuses {what}: {source} (it needs \
         nftables with family netdev: CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_INGRESS)"
    )]
    NoGuard {
        /// What it refused.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// An interface is not there.
    #[error("there is no interface {interface} in this network namespace (any more)")]
    NoInterface {
        /// The interface, by name, or name and number.
        interface: String,
    },
    /// An interface that has no other end on the node.
    #[error(
        "interface {interface} is no end of a veth pair between a pod and this node ({}): what \
         leaves it cannot be guarded",
        if kind.is_empty() { "no virtual one" } else { kind }
    )]
    NoVeth {
        /// The interface's name.
        interface: String,
        /// Its kind, as the kernel calls it; empty for a piece of hardware.
        kind: String,
    },
    /// More pod ranges than there is room for.
    #[error(
        "strangers are to be isolated in {wanted} CIDRs of {family}, and there is room for {size}: \
         nothing was changed; give fewer and larger ones"
    )]
    PodRanges {
        /// CIDRs that the ranges are made of.
        wanted: usize,
        /// Of which family.
        family: Family,
        /// CIDRs that there may be.
        size: usize,
    },
    /// Somebody changes the table at the same time.
    #[error(
        "nftables keeps changing while table {family} {table} is read; is a second Podwall running?"
    )]
    Busy {
        /// The table's family.
        family: &'static str,
        /// The table's name.
        table: String,
    },
}

fn detail(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}
