//! How does an answer read?

pub mod can;
pub mod explain;
pub mod exposure;
pub mod fix;
pub mod generate;
pub mod lint;
pub mod matrix;
pub mod mutate;
pub mod paths;
pub mod test;
