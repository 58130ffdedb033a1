//! podwall-render
