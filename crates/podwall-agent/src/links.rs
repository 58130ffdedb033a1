//! Which links of pods are guarded against forged source addresses?
//!
//! ```text
//!   Attachments (sandbox, addresses, host's link) ──▶ Links ──▶ Guard ──▶ kernel
//! ```
//!
//! The runtime says which link is whose, so that only pods which the CNI plugin has attached are
//! guarded. That depends on nothing the API server says.

use std::collections::{BTreeMap, BTreeSet};

use podwall_dataplane::Error;
use podwall_dataplane::guard::{Allowed, Guard, Interface};
use podwall_local::{Attachment, Sandbox};

/// What is guarded. Owned by the writer.
pub(crate) struct Links {
    guard: Guard,
    guarded: BTreeMap<Sandbox, Interface>,
}

/// The link of an attachment, and what may come from it.
fn wanted(attachment: &Attachment) -> Option<(Interface, Allowed)> {
    let link = attachment.link.as_ref()?;
    let interface = Interface { index: link.index, name: link.name.clone() };
    let mac = link.mac.as_deref().and_then(mac);
    Some((interface, Allowed { addresses: attachment.addresses.clone(), mac }))
}

/// `0a:58:0a:f4:01:02`.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

impl Links {
    pub(crate) fn new(guard: Guard) -> Self {
        Self { guard, guarded: BTreeMap::new() }
    }

    /// Makes the kernel guard exactly the links of these, whatever an earlier agent left.
    pub(crate) fn set<'a>(
        &mut self,
        attachments: impl Iterator<Item = &'a Attachment>,
    ) -> Result<(), Error> {
        let all: Vec<_> = attachments
            .filter_map(|it| wanted(it).map(|(interface, allowed)| (it, interface, allowed)))
            .collect();
        let links = all.iter().map(|(_, interface, allowed)| (interface.clone(), allowed.clone()));
        let gone: BTreeSet<Interface> = self.guard.set(&links.collect())?.into_iter().collect();
        let there = all.into_iter().filter(|(_, interface, _)| !gone.contains(interface));
        self.guarded = there.map(|(it, interface, _)| (it.sandbox.clone(), interface)).collect();
        Ok(())
    }

    /// Guards the link of a new attachment, if it is known which it is.
    pub(crate) fn add(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let Some((interface, allowed)) = wanted(attachment) else { return Ok(()) };
        self.guard.add(&interface, &allowed)?;
        self.guarded.insert(attachment.sandbox.clone(), interface);
        Ok(())
    }

    /// Guards a link no longer.
    pub(crate) fn remove(&mut self, sandbox: &Sandbox) -> Result<(), Error> {
        let Some(interface) = self.guarded.get(sandbox) else { return Ok(()) };
        self.guard.remove(interface)?;
        self.guarded.remove(sandbox);
        Ok(())
    }

    /// Whether the link of an attachment is guarded.
    pub(crate) fn has(&self, sandbox: &Sandbox) -> bool {
        self.guarded.contains_key(sandbox)
    }

    /// How many are.
    pub(crate) fn len(&self) -> usize {
        self.guarded.len()
    }

    /// Packets that were dropped for their source, at all links.
    pub(crate) fn dropped(&mut self) -> Result<u64, Error> {
        Ok(self.guard.dropped()?.values().sum())
    }

    /// Holds the kernel against what it should guard, and puts right what differs; what was found.
    pub(crate) fn verify<'a>(
        &mut self,
        attachments: impl Iterator<Item = &'a Attachment>,
    ) -> Result<Vec<String>, Error> {
        if self.guarded.is_empty() {
            return Ok(Vec::new());
        }
        let drift: Vec<String> = self.guard.verify()?.iter().map(ToString::to_string).collect();
        if !drift.is_empty() {
            self.set(attachments)?;
        }
        Ok(drift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_six_bytes() {
        assert_eq!(mac("0a:58:0a:f4:01:02"), Some([0x0a, 0x58, 0x0a, 0xf4, 1, 2]));
        for wrong in
            ["", "0a:58:0a:f4:01", "0a:58:0a:f4:01:02:03", "0a:58:0a:f4:01:x2", "a:58:0a:f4:01:02"]
        {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }
}
