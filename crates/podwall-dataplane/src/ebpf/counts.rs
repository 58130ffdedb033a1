//! Whose are the counters in the kernel?
//!
//! ```text
//!   rule_packets[id]   packets, a number a CPU; counted by the program
//!   rule_names[id]     hash of the rule that they are for; 0: nobody's
//! ```
//!
//! Both are pinned, so that a process which starts knows what the numbers mean that it finds, even
//! where its compiler gives a rule another id.

use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use podwall_compile::tables::SubjectId;
use rustc_hash::FxHashMap;

use crate::Error;
use crate::counters::Owners;

/// One kind of counters.
pub(crate) struct Counts {
    packets: MapHandle,
    names: MapHandle,
}

fn cannot(doing: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Error {
    move |answer| Error::Bpf { doing: format!("{doing} the counters"), answer }
}

impl Counts {
    /// Those that a program has pinned: `rule` or `default`.
    pub(crate) fn open(directory: &Path, kind: &str) -> Result<Self, Error> {
        let open = |what: &str| {
            MapHandle::from_pinned_path(directory.join(format!("{kind}_{what}")))
                .map_err(cannot("open"))
        };
        Ok(Self { packets: open("packets")?, names: open("names")? })
    }

    /// The place of an id; none for one beyond the counters. Strangers have the last.
    fn place(&self, id: u32) -> Option<u32> {
        let last = self.names.max_entries().checked_sub(1)?;
        if id == SubjectId::STRANGER.0 { Some(last) } else { (id < last).then_some(id) }
    }

    /// Packets at one place over all CPUs.
    fn packets(&self, id: u32) -> Result<u64, Error> {
        let values = self.packets.lookup_percpu(&id.to_ne_bytes(), MapFlags::ANY);
        let values = values.map_err(cannot("read"))?.unwrap_or_default();
        let number = |bytes: Vec<u8>| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok(values.into_iter().map(number).sum())
    }

    fn set_packets(&self, id: u32, packets: u64) -> Result<(), Error> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(cannot("write"))?;
        let mut values = vec![0_u64.to_ne_bytes().to_vec(); cpus];
        if let Some(first) = values.first_mut() {
            *first = packets.to_ne_bytes().to_vec();
        }
        self.packets
            .update_percpu(&id.to_ne_bytes(), &values, MapFlags::ANY)
            .map_err(cannot("write"))
    }

    /// All names, by id.
    fn names(&self) -> Result<Owners, Error> {
        let all = self.names.max_entries();
        let batch = self.names.lookup_batch(all, MapFlags::ANY, MapFlags::ANY);
        let mut owners = Owners::new();
        for (key, value) in batch.map_err(cannot("read"))? {
            let id = key.try_into().map(u32::from_ne_bytes);
            let name = value.try_into().map_or(0, u64::from_ne_bytes);
            if let (Ok(id), true) = (id, name != 0) {
                let is_last = id + 1 == all;
                owners.insert(if is_last { SubjectId::STRANGER.0 } else { id }, name);
            }
        }
        Ok(owners)
    }

    /// What each name has counted so far.
    pub(crate) fn by_name(&self) -> Result<FxHashMap<u64, u64>, Error> {
        let mut out = FxHashMap::default();
        for (id, name) in self.names()? {
            if let Some(place) = self.place(id) {
                out.insert(name, self.packets(place)?);
            }
        }
        Ok(out)
    }

    /// Gives the counters to these owners and nobody else. One who had another before goes on with
    /// its number, one who comes with that in `known` or at zero.
    pub(crate) fn give(&self, owners: &Owners, known: &FxHashMap<u64, u64>) -> Result<(), Error> {
        let had = self.names()?;
        if *owners == had {
            return Ok(());
        }
        let before = self.by_name()?;
        for id in had.keys().filter(|id| !owners.contains_key(id)) {
            self.set(*id, 0, 0)?;
        }
        for (id, name) in owners.iter().filter(|(id, name)| had.get(id) != Some(name)) {
            let packets = before.get(name).or_else(|| known.get(name)).copied();
            self.set(*id, *name, packets.unwrap_or(0))?;
        }
        Ok(())
    }

    /// Gives one counter to somebody else, at zero; 0: to nobody.
    pub(crate) fn change(&self, id: u32, name: u64) -> Result<(), Error> {
        let Some(place) = self.place(id) else { return Ok(()) };
        let had = self.names.lookup(&place.to_ne_bytes(), MapFlags::ANY).map_err(cannot("read"))?;
        if had != Some(name.to_ne_bytes().to_vec()) {
            self.set(id, name, 0)?;
        }
        Ok(())
    }

    fn set(&self, id: u32, name: u64, packets: u64) -> Result<(), Error> {
        let Some(place) = self.place(id) else { return Ok(()) };
        self.set_packets(place, packets)?;
        let (key, value) = (place.to_ne_bytes(), name.to_ne_bytes());
        self.names.update(&key, &value, MapFlags::ANY).map_err(cannot("write"))
    }

    /// Packets by id.
    pub(crate) fn read(&self, owners: &Owners) -> Result<Vec<(u32, u64)>, Error> {
        let ids = owners.keys().filter_map(|id| Some((*id, self.place(*id)?)));
        ids.map(|(id, place)| Ok((id, self.packets(place)?))).collect()
    }
}
