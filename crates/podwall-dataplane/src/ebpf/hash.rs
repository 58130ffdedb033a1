//! How does a hash of ours lie in an array of the kernel?
//!
//! ```text
//!   home of a key ─▶ ┌ key value │ key value │ key value │ head ┐  a bucket: one element of the array
//!                    └───────────┴───────────┴───────────┴──────┘
//!                    the next bucket, for who found this one full, and so on
//! ```
//!
//! `head` says which of the three are taken, and how many entries went on to later buckets: where
//! none did, a search ends. Entries go without a trace, so that a table does not wear out. The
//! program's side is `FIND` in `decide.h`.

/// Entries of a bucket.
const ENTRIES: usize = 3;
/// How far an entry may be from its home.
const PROBES: u32 = 16;
/// Of a head: bits 29 to 31 are the entries taken, below is how many went on.
const USED: u32 = 29;
const WENT_ON: u32 = (1 << USED) - 1;
/// Bytes of the largest bucket: with addresses of IPv6.
const LARGEST: usize = ENTRIES * (16 + 16) + 4;

/// Bytes of a key, whole words, and of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// One bucket, of which a form uses the first bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket([u8; LARGEST]);

impl Bucket {
    /// From an element of the array.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut bucket = Self([0; LARGEST]);
        let length = bytes.len().min(LARGEST);
        bucket.0[..length].copy_from_slice(&bytes[..length]);
        bucket
    }

    /// As an element of so many bytes.
    pub(crate) fn first(&self, length: usize) -> &[u8] {
        &self.0[..length.min(LARGEST)]
    }

    /// Room for an element of so many bytes.
    pub(crate) fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.0[..length.min(LARGEST)]
    }

    fn head(&self, form: Form) -> u32 {
        let at = form.bucket() - 4;
        let mut head = [0; 4];
        head.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(head)
    }

    fn set_head(&mut self, form: Form, head: u32) {
        let at = form.bucket() - 4;
        self.0[at..at + 4].copy_from_slice(&head.to_ne_bytes());
    }

    fn is_used(&self, form: Form, place: usize) -> bool {
        self.head(form) >> USED & 1 << place != 0
    }

    fn went_on(&self, form: Form) -> u32 {
        self.head(form) & WENT_ON
    }

    fn entry(&self, form: Form, place: usize) -> (&[u8], &[u8]) {
        let at = place * form.entry();
        self.0[at..at + form.entry()].split_at(form.key)
    }

    fn find(&self, form: Form, key: &[u8]) -> Option<usize> {
        (0..ENTRIES).find(|place| self.is_used(form, *place) && self.entry(form, *place).0 == key)
    }

    fn free(&self, form: Form) -> Option<usize> {
        (0..ENTRIES).find(|place| !self.is_used(form, *place))
    }

    fn put(&mut self, form: Form, place: usize, key: &[u8], value: &[u8]) {
        let at = place * form.entry();
        self.0[at..at + form.key].copy_from_slice(key);
        self.0[at + form.key..at + form.entry()].copy_from_slice(value);
        self.set_head(form, self.head(form) | 1 << (USED + u32::try_from(place).unwrap_or(0)));
    }

    fn clear(&mut self, form: Form, place: usize) {
        let at = place * form.entry();
        self.0[at..at + form.entry()].fill(0);
        self.set_head(form, self.head(form) & !(1 << (USED + u32::try_from(place).unwrap_or(0))));
    }
}

impl Form {
    fn entry(self) -> usize {
        self.key + self.value
    }

    /// Bytes of a bucket.
    pub(crate) fn bucket(self) -> usize {
        ENTRIES * self.entry() + 4
    }

    /// The first bucket to look into, of so many: the same as in `decide.h`.
    fn home(self, key: &[u8], count: u32) -> u32 {
        let mut hash = 0_u32;
        for word in key.chunks_exact(4) {
            let word = word.try_into().map_or(0, u32::from_ne_bytes);
            hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
            hash ^= hash >> 15;
        }
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
        // Less than `count`.
        u32::try_from((u64::from(hash) * u64::from(count)) >> 32).unwrap_or(0)
    }
}

/// How many buckets hold so many entries with half of their places taken: of 100,000 entries one is
/// then some ten buckets from home, and most are at home. A table that is fuller than two thirds has
/// to grow.
pub(crate) fn buckets(entries: usize) -> u32 {
    u32::try_from(entries / 3 * 2 + 64).unwrap_or(u32::MAX)
}

/// Where buckets are: behind calls of the kernel, or in memory.
pub(crate) trait Buckets {
    type Error;
    /// More than none.
    fn count(&self) -> u32;
    fn get(&self, at: u32) -> Result<Bucket, Self::Error>;
    fn set(&mut self, at: u32, bucket: &Bucket) -> Result<(), Self::Error>;
}

/// Sets the value of a key; `false`: there is no room near its home, and nothing is changed.
pub(crate) fn set<B: Buckets>(
    table: &mut B,
    form: Form,
    key: &[u8],
    value: &[u8],
) -> Result<bool, B::Error> {
    let count = table.count();
    let home = form.home(key, count);
    let mut room = None;
    for probe in 0..PROBES {
        let at = (home + probe) % count;
        let mut bucket = table.get(at)?;
        if let Some(place) = bucket.find(form, key) {
            bucket.put(form, place, key, value);
            table.set(at, &bucket)?;
            return Ok(true);
        }
        if room.is_none() {
            room = bucket.free(form).map(|place| (probe, place, bucket));
        }
        if room.is_some() && bucket.went_on(form) == 0 {
            break;
        }
    }
    let Some((probe, place, mut bucket)) = room else { return Ok(false) };
    bucket.put(form, place, key, value);
    table.set((home + probe) % count, &bucket)?;
    passed(table, form, home, probe, 1)?;
    Ok(true)
}

/// The value of a key, if it is there.
pub(crate) fn get<B: Buckets>(
    table: &B,
    form: Form,
    key: &[u8],
) -> Result<Option<Vec<u8>>, B::Error> {
    let count = table.count();
    let home = form.home(key, count);
    for at in (0..PROBES).map(|probe| (home + probe) % count) {
        let bucket = table.get(at)?;
        if let Some(place) = bucket.find(form, key) {
            return Ok(Some(bucket.entry(form, place).1.to_vec()));
        }
        if bucket.went_on(form) == 0 {
            break;
        }
    }
    Ok(None)
}

/// Takes a key away, if it is there.
pub(crate) fn remove<B: Buckets>(table: &mut B, form: Form, key: &[u8]) -> Result<(), B::Error> {
    let count = table.count();
    let home = form.home(key, count);
    for probe in 0..PROBES {
        let at = (home + probe) % count;
        let mut bucket = table.get(at)?;
        if let Some(place) = bucket.find(form, key) {
            bucket.clear(form, place);
            table.set(at, &bucket)?;
            return passed(table, form, home, probe, -1);
        }
        if bucket.went_on(form) == 0 {
            break;
        }
    }
    Ok(())
}

/// One more, or one less, has gone on from each of the first buckets after its home.
fn passed<B: Buckets>(
    table: &mut B,
    form: Form,
    home: u32,
    probes: u32,
    difference: i32,
) -> Result<(), B::Error> {
    for probe in 0..probes {
        let at = (home + probe) % table.count();
        let mut bucket = table.get(at)?;
        let went_on = bucket.went_on(form).saturating_add_signed(difference).min(WENT_ON);
        bucket.set_head(form, bucket.head(form) & !WENT_ON | went_on);
        table.set(at, &bucket)?;
    }
    Ok(())
}

/// Keys and values, each side by side, of all entries that a search finds.
pub(crate) fn entries<B: Buckets>(table: &B, form: Form) -> Result<(Vec<u8>, Vec<u8>), B::Error> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for at in 0..table.count() {
        let bucket = table.get(at)?;
        for place in (0..ENTRIES).filter(|place| bucket.is_used(form, *place)) {
            let (key, value) = bucket.entry(form, place);
            if finds(table, form, key, at)? {
                keys.extend_from_slice(key);
                values.extend_from_slice(value);
            }
        }
    }
    Ok((keys, values))
}

/// Whether a search for a key ends in this bucket.
fn finds<B: Buckets>(table: &B, form: Form, key: &[u8], there: u32) -> Result<bool, B::Error> {
    let count = table.count();
    let home = form.home(key, count);
    for at in (0..PROBES).map(|probe| (home + probe) % count) {
        let bucket = table.get(at)?;
        if bucket.find(form, key).is_some() {
            return Ok(at == there);
        }
        if bucket.went_on(form) == 0 {
            break;
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use podwall_compile::testing::dice::Dice;

    use super::*;

    const FORMS: [Form; 3] =
        [Form { key: 4, value: 16 }, Form { key: 12, value: 8 }, Form { key: 16, value: 16 }];

    struct Table(Form, Vec<Bucket>);

    impl Buckets for Table {
        type Error = std::convert::Infallible;

        fn count(&self) -> u32 {
            u32::try_from(self.1.len()).unwrap_or(0)
        }

        fn get(&self, at: u32) -> Result<Bucket, Self::Error> {
            Ok(self.1[at as usize])
        }

        fn set(&mut self, at: u32, bucket: &Bucket) -> Result<(), Self::Error> {
            self.1[at as usize] = *bucket;
            Ok(())
        }
    }

    fn empty(form: Form, count: u32) -> Table {
        Table(form, vec![Bucket::of(&[]); count as usize])
    }

    fn put(table: &mut Table, key: &[u8], value: &[u8]) -> bool {
        let form = table.0;
        set(table, form, key, value).unwrap_or(false)
    }

    fn held(table: &Table) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let Ok((keys, values)) = entries(table, table.0);
        let keys = keys.chunks_exact(table.0.key).map(<[u8]>::to_vec);
        keys.zip(values.chunks_exact(table.0.value).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn after_any_history_the_table_holds_what_a_map_does() {
        for form in FORMS {
            let mut dice = Dice::seeded(11);
            // Few buckets, so that many entries are far from home and the last bucket's are in the first.
            let (mut table, mut model) = (empty(form, 13), BTreeMap::new());
            for _ in 0..20_000 {
                let mut key = vec![0; form.key];
                key[form.key - 1] = u8::try_from(dice.below(45)).unwrap_or(0);
                let value = vec![u8::try_from(dice.below(256)).unwrap_or(0); form.value];
                if dice.below(2) == 0 {
                    let (had, room) = (model.contains_key(&key), model.len() < 13 * ENTRIES);
                    if put(&mut table, &key, &value) {
                        assert!(had || room);
                        model.insert(key, value);
                    } else {
                        assert!(!had);
                    }
                } else {
                    let _ = remove(&mut table, form, &key);
                    model.remove(&key);
                }
                assert_eq!(held(&table), model);
            }
            for key in model.keys() {
                let _ = remove(&mut table, form, key);
            }
            assert!(table.1.iter().all(|bucket| bucket.0 == [0; LARGEST]), "a trace is left");
        }
    }

    #[test]
    fn neighbouring_addresses_find_room_in_a_table_of_the_usual_size() {
        for (form, count) in FORMS.into_iter().zip([100_000_u32, 30_000, 100_000]) {
            let mut table = empty(form, buckets(count as usize));
            for n in 0..count {
                let mut key = vec![0; form.key];
                // As in packets: the last byte changes fastest; numbers: the first.
                let bytes =
                    if form.key == 12 { n.to_ne_bytes() } else { (n | 10 << 24).to_be_bytes() };
                key[form.key - 4..].copy_from_slice(&bytes);
                assert!(put(&mut table, &key, &vec![1; form.value]), "{form:?}: {n} of {count}");
            }
            assert_eq!(held(&table).len(), count as usize);
        }
    }

    #[test]
    fn an_entry_that_no_search_finds_is_not_told() {
        let form = FORMS[0];
        let mut table = empty(form, 100);
        assert!(put(&mut table, &[10, 0, 0, 1], &[7; 16]));
        let home = form.home(&[10, 0, 0, 1], 100);
        let bucket = table.1[home as usize];
        let _ = Buckets::set(&mut table, home, &Bucket::of(&[]));
        let _ = Buckets::set(&mut table, (home + 1) % 100, &bucket);
        assert!(held(&table).is_empty());
    }
}
