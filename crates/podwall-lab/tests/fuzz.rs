//! What the fuzzer checks of the name server, with random bytes.

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../../fuzz/src/dns.rs"]
mod dns;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_a_fuzzer_checks_holds_of_random_bytes(bytes in vec(any::<u8>(), 0..80)) {
        dns::check(&bytes);
    }
}
