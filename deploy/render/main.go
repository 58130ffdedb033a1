// Which manifests does the chart give for these values?
//
//	values as JSON (stdin) ──▶ templates of the chart ──▶ documents, "---" between them (stdout)
//
// This is not helm. It exists so that deploy/podwall.yaml is the chart's own output, made and compared
// where there is no helm, with nothing but Go's standard library. It knows what this chart uses: the
// template language (which is Go's own text/template, as in helm), .Values, .Chart, .Release.Name,
// .Release.Namespace, .Files.Get, and the functions include, toYaml, quote, default, required, indent,
// nindent and fail. Anything else is an error and not an empty string. No subcharts, hooks, lookups,
// capabilities of a cluster, or sprig; templates come in the order of their names, but for the namespace
// and the rights, which come first.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"text/template"
)

// input is what scripts/render-chart says.
type input struct {
	Values, Chart, Release map[string]any
}

// files are those beside the templates.
type files struct{ chart string }

func (f files) Get(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(f.chart, filepath.Clean("/"+name)))
	return string(text), err
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("say the chart's directory; values come as JSON on standard input"))
	}
	if err := render(os.Args[1]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "deploy/render:", err)
	os.Exit(1)
}

func render(chart string) error {
	var in input
	from := json.NewDecoder(os.Stdin)
	from.UseNumber() // 9760 stays 9760
	if err := from.Decode(&in); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	data := map[string]any{
		"Values": in.Values, "Chart": in.Chart, "Release": in.Release, "Files": files{chart},
	}
	all := template.New("chart")
	all.Option("missingkey=error").Funcs(functions(all))
	names, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil {
		return err
	}
	// As helm has it, who contains the others comes first.
	first := map[string]int{"namespace.yaml": 2, "rbac.yaml": 1}
	sort.SliceStable(names, func(a, b int) bool {
		return first[filepath.Base(names[a])] > first[filepath.Base(names[b])]
	})
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := all.New(filepath.Base(name)).Parse(string(text)); err != nil {
			return err
		}
	}
	for _, name := range names {
		base := filepath.Base(name)
		if strings.HasPrefix(base, "_") || !strings.HasSuffix(base, ".yaml") {
			continue // definitions; NOTES.txt, which is parsed all the same
		}
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, base, data); err != nil {
			return err
		}
		text := strings.TrimSpace(out.String())
		if text = strings.TrimSpace(strings.TrimPrefix(text, "---")); text != "" {
			fmt.Printf("---\n%s\n", text)
		}
	}
	var notes bytes.Buffer // read by people; here only so that a mistake in it is one
	return all.ExecuteTemplate(&notes, "NOTES.txt", data)
}

func functions(all *template.Template) template.FuncMap {
	indent := func(spaces int, text string) string {
		pad := strings.Repeat(" ", spaces)
		return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
	}
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out strings.Builder
			err := all.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"toYaml": func(value any) string { return strings.TrimSuffix(yaml(value, 0), "\n") },
		"quote":  func(value any) string { return strconv.Quote(fmt.Sprint(value)) },
		"default": func(other, value any) any {
			if truth, _ := template.IsTrue(value); truth {
				return value
			}
			return other
		},
		"required": func(words string, value any) (any, error) {
			if value == nil || reflect.DeepEqual(value, "") {
				return nil, fmt.Errorf("%s", words)
			}
			return value, nil
		},
		"fail":    func(words string) (string, error) { return "", fmt.Errorf("%s", words) },
		"indent":  indent,
		"nindent": func(spaces int, text string) string { return "\n" + indent(spaces, text) },
	}
}

var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)
var word = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|null|y|n|inf|nan)$`)

// yaml writes what JSON can hold in block style, keys in order.
func yaml(value any, depth int) string {
	pad := strings.Repeat("  ", depth)
	var out strings.Builder
	switch value := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(value))
		for key := range value {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		for _, key := range keys {
			fmt.Fprintf(&out, "%s%s:%s", pad, scalar(key), below(value[key], depth))
		}
		if len(keys) == 0 {
			return pad + "{}\n"
		}
	case []any:
		for _, item := range value {
			text := yaml(item, depth+1)
			fmt.Fprintf(&out, "%s- %s", pad, strings.TrimPrefix(text, pad+"  "))
		}
		if len(value) == 0 {
			return pad + "[]\n"
		}
	default:
		return pad + scalar(value) + "\n"
	}
	return out.String()
}

// below writes the value of a key: behind it, or under it.
func below(value any, depth int) string {
	kind := reflect.ValueOf(value)
	if value == nil || (kind.Kind() != reflect.Map && kind.Kind() != reflect.Slice) || kind.Len() == 0 {
		return " " + strings.TrimLeft(yaml(value, 0), " ")
	}
	return "\n" + yaml(value, depth+1)
}

func scalar(value any) string {
	text, is := value.(string)
	if !is {
		if value == nil {
			return "null"
		}
		return fmt.Sprint(value)
	}
	if plain.MatchString(text) && !word.MatchString(text) {
		return text
	}
	return strconv.Quote(text)
}
