//! What the fuzzer checks, with random bytes: clusters, verdicts, explanations, tables, changes.

use podwall_compile::testing::dice::Dice;

#[path = "../../../fuzz/src/evaluate.rs"]
mod evaluate;

#[test]
fn what_a_fuzzer_checks_holds_of_random_bytes() {
    for seed in 0..300 {
        let mut dice = Dice::seeded(seed);
        let length = dice.between(0, 600);
        let byte = |dice: &mut Dice| u8::try_from(dice.below(256)).unwrap_or_default();
        evaluate::check(&dice.some(length, length, byte));
    }
}
