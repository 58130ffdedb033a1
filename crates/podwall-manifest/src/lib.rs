//! podwall-manifest
