//! How does an object that is kept as JSON remember where it once stood?
//!
//! ```text
//!   read ──▶ Object ──▶ raw + places() ──▶ a file of state
//!                                             │
//!   Object with file:line:column ◀── object_from_json(raw), set_places()
//! ```

use podwall_policy::policy::Rule;
use podwall_policy::source::Source;
use serde_json::{Value as Json, json};

use crate::object::{Object, Typed};

impl Object {
    /// Where the object and the rules of a policy stand:
    /// `{"file": "web.yaml", "object": [1, 1], "ingress": [[7, 5]], "egress": []}`, each a line and
    /// a column. To be kept beside [`Object::raw`].
    pub fn places(&self) -> Json {
        let pair = |source: &Source| json!([source.line, source.column]);
        let mut places = json!({ "file": &*self.source.file, "object": pair(&self.source) });
        if let Typed::Policy(policy) = &self.typed {
            let rules = |rules: &Option<Vec<Rule>>| -> Json {
                let sources = rules.iter().flatten().map(|r| r.source.as_ref());
                sources.map(|source| source.map_or(Json::Null, pair)).collect()
            };
            places["ingress"] = rules(&policy.ingress);
            places["egress"] = rules(&policy.egress);
        }
        places
    }

    /// Puts back what [`Object::places`] gave; what does not fit is passed over.
    pub fn set_places(&mut self, places: &Json) {
        let Some(file) = places.get("file").and_then(Json::as_str) else { return };
        let source = |pair: Option<&Json>| {
            let number = |i| pair?.get(i)?.as_u64()?.try_into().ok();
            Some(Source::new(file, number(0)?, number(1)?))
        };
        let Some(own) = source(places.get("object")) else { return };
        self.source = own.clone();
        let slot = match &mut self.typed {
            Typed::Namespace(object) => &mut object.source,
            Typed::Node(object) => &mut object.source,
            Typed::Pod(object) => &mut object.source,
            Typed::Service(object) => &mut object.source,
            Typed::Workload(object) => &mut object.source,
            // Nobody keeps them: a lab has none.
            Typed::Entrance(_) => return,
            Typed::Policy(policy) => {
                for (key, rules) in
                    [("ingress", &mut policy.ingress), ("egress", &mut policy.egress)]
                {
                    for (i, rule) in rules.iter_mut().flatten().enumerate() {
                        let place = source(places.get(key).and_then(|list| list.get(i)));
                        rule.source = place.or(rule.source.take());
                    }
                }
                &mut policy.source
            }
        };
        *slot = Some(own);
    }
}
