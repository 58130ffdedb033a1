//! How does an answer read?

pub mod can;
