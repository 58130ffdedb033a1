//! How do policies become tables that a kernel can look up in constant time?

pub mod tables;
