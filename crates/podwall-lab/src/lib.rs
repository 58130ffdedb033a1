//! podwall-lab
