//! podwall-analysis
