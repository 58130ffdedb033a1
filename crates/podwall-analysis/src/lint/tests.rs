//! Do rules find what they should, and nothing else?
