//! How does a data plane follow a compiler, whatever goes wrong?

use podwall_compile::tables::{Delta, NodeTables};

use crate::{DataPlane, Error};

/// Writes a change, or everything where the kernel may hold something else. `known` says whether it
/// is known to hold the tables as they were before the change, and afterwards, as they are now: a
/// change that fails is made up for by the next call.
///
/// Some: the change was refused for this reason, and everything was written instead.
///
/// # Errors
/// The kernel refuses. It then holds what it held before.
pub fn follow(
    plane: &mut dyn DataPlane,
    known: &mut bool,
    tables: &NodeTables,
    delta: &Delta,
) -> Result<Option<Error>, Error> {
    // Until the kernel has said yes, nobody knows what it holds.
    let refused = match std::mem::replace(known, false) {
        true if delta.is_empty() => None,
        true => match plane.update(delta) {
            Ok(()) => None,
            Err(error) => {
                plane.replace(tables)?;
                Some(error)
            }
        },
        false => {
            plane.replace(tables)?;
            None
        }
    };
    *known = true;
    Ok(refused)
}
