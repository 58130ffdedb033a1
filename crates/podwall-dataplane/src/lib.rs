//! podwall-dataplane
