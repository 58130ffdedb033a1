//! How does conntrack come to follow the connections of a network namespace?
//!
//! ```text
//!   table inet podwall-conntrack { chain unused { ct state … } }    no hook: no packet ever meets it
//! ```
//!
//! The kernel follows connections in a namespace as long as some rule there asks for their state
//! (`nf_ct_netns_get`). Where nobody else does, this rule asks.

use super::batch::{Batch, Outcome, Step};
use super::dump;
use super::ir::{Chain, Expr, Field, Rule, Test, state};
use crate::Error;
use crate::netlink::socket::Socket;

/// The table of that rule.
pub(crate) const TABLE: &str = "podwall-conntrack";

/// Has conntrack follow the connections of the calling thread's network namespace, of both families.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn switch_on() -> Result<(), Error> {
    let asks = Rule {
        comment: "has conntrack follow connections".to_owned(),
        steps: vec![Expr::Is(Field::CtState, Test::Bits(state::ESTABLISHED))],
    };
    let chain = Chain { name: "unused", base: None, rules: Vec::new() };
    let comment = "podwall has conntrack follow connections".to_owned();
    commit(&[
        Step::NewTable { comment },
        Step::NewChain(chain),
        Step::Flush("unused"),
        Step::NewRule("unused", asks),
    ])
}

/// Whether the rule's table is there.
///
/// # Errors
/// The kernel cannot be asked.
pub(crate) fn is_on() -> Result<bool, Error> {
    Ok(dump::table(&mut Socket::open()?, TABLE)?.is_some())
}

/// Takes the rule away; nothing there is no error.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn forget() -> Result<(), Error> {
    commit(&[Step::NewTable { comment: String::new() }, Step::DelTable])
}

fn commit(steps: &[Step]) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    let mut batch = Batch::new(TABLE, &mut socket, None);
    for step in steps {
        batch.step(step);
    }
    match batch.commit(&mut socket)? {
        Outcome::Done => Ok(()),
        Outcome::Conflict(error) => Err(error),
        Outcome::Stale | Outcome::Full => {
            Err(Error::Busy { family: "inet", table: TABLE.to_owned() })
        }
        Outcome::TooLarge(capacity) => Err(Error::TooLarge { capacity }),
    }
}
