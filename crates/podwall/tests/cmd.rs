//! Transcripts: what is typed, what is printed, and the exit code.
//!
//! `TRYCMD=overwrite cargo test -p podwall --test cmd` writes them anew; read the difference.

#[test]
fn transcripts() {
    trycmd::TestCases::new().case("tests/cmd/*.md");
}
