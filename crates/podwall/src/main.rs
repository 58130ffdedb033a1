//! podwall
fn main() {}
