// Renders a chart as Helm does, or a pack as nomad-pack does: Go's own text/template, one set of all templates, with those functions
// of Helm, nomad-pack and sprig that are used. A function that is not here is an error, so that none is used that was not looked up.
//
// Stricter than Helm in one thing: a value that does not exist is an error (`helm template --strict` does the same), and not empty.
//
// Reads {"templates": {name: source}, "chart": {...}, "releases": [{"name": …, "values": {...}}]} from stdin, YAML being JSON by
// then. Without a chart it is a pack: its delimiters are [[ and ]], and its values are variables. Writes [{"files": {name: text}, "error": text}] to stdout, one for each release.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"text/template"
)

type release struct {
	Name   string                 `json:"name"`
	Values map[string]interface{} `json:"values"`
}

type work struct {
	Templates map[string]string      `json:"templates"`
	Chart     map[string]interface{} `json:"chart"`
	Releases  []release              `json:"releases"`
}

type rendered struct {
	Files map[string]string `json:"files"`
	Error string            `json:"error"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var todo work
	// Numbers become float64, as they do in Helm: a large one without `int64` is printed as 1e+06.
	if err := json.NewDecoder(os.Stdin).Decode(&todo); err != nil {
		return err
	}
	all, err := parse(todo)
	if err != nil {
		return err
	}
	results := []rendered{}
	for _, one := range todo.Releases {
		results = append(results, render(all, todo, one))
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func parse(todo work) (*template.Template, error) {
	all := template.New("all").Option("missingkey=error")
	if todo.Chart == nil {
		all.Delims("[[", "]]")
	}
	all.Funcs(functions())
	all.Funcs(template.FuncMap{"include": func(name string, with interface{}) (string, error) {
		var text strings.Builder
		err := all.ExecuteTemplate(&text, name, with)
		return text.String(), err
	}})
	for name, source := range todo.Templates {
		if _, err := all.New(name).Parse(source); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func render(all *template.Template, todo work, one release) rendered {
	top := map[string]interface{}{
		"Values":       one.Values,
		"Chart":        todo.Chart,
		"Release":      map[string]interface{}{"Name": one.Name, "Namespace": "default", "Service": "Helm", "Revision": 1, "IsInstall": true, "IsUpgrade": false},
		"Capabilities": map[string]interface{}{"KubeVersion": map[string]interface{}{"Version": "v1.34.0", "Major": "1", "Minor": "34"}},
	}
	if todo.Chart == nil {
		top = one.Values
	}
	files := map[string]string{}
	for name := range todo.Templates {
		// Files that begin with an underscore are for others to include.
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		var text strings.Builder
		if err := all.ExecuteTemplate(&text, name, top); err != nil {
			return rendered{Error: err.Error()}
		}
		files[name] = text.String()
	}
	return rendered{Files: files}
}

func functions() template.FuncMap {
	return template.FuncMap{
		"contains":     func(part, text string) bool { return strings.Contains(text, part) },
		"default":      orDefault,
		"dict":         dict,
		"fail":         func(why string) (string, error) { return "", errors.New(why) },
		"int64":        whole,
		"list":         func(items ...interface{}) []interface{} { return items },
		"nindent":      func(by int, text string) string { return "\n" + indent(by, text) },
		"quote":        func(value interface{}) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"replace":      func(from, to, text string) string { return strings.ReplaceAll(text, from, to) },
		"required":     required,
		"toStringList": stringList,
		"toYaml":       func(value interface{}) string { return strings.TrimSuffix(yaml(value, 0), "\n") },
		"trimSuffix":   func(end, text string) string { return strings.TrimSuffix(text, end) },
		"trunc":        trunc,
		"var":          variable,
	}
}

// sprig's: zero, false, and what has no items are all empty.
func orDefault(otherwise, value interface{}) interface{} {
	if full, known := template.IsTrue(value); known && full {
		return value
	}
	return otherwise
}

func dict(pairs ...interface{}) (map[string]interface{}, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict: a key without a value")
	}
	made := map[string]interface{}{}
	for at := 0; at < len(pairs); at += 2 {
		made[fmt.Sprint(pairs[at])] = pairs[at+1]
	}
	return made, nil
}

func whole(value interface{}) (int64, error) {
	switch number := value.(type) {
	case float64:
		return int64(number), nil
	case int:
		return int64(number), nil
	case int64:
		return number, nil
	}
	return 0, fmt.Errorf("int64: %v", value)
}

func indent(by int, text string) string {
	pad := strings.Repeat(" ", by)
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
}

// Helm's: no value and an empty text are refused.
func required(why string, value interface{}) (interface{}, error) {
	if value == nil || value == "" {
		return nil, errors.New(why)
	}
	return value, nil
}

func trunc(length int, text string) string {
	if len(text) > length {
		return text[:length]
	}
	return text
}

// nomad-pack's.
func variable(name string, all map[string]interface{}) (interface{}, error) {
	value, known := all[name]
	if !known {
		return nil, fmt.Errorf("there is no variable %s", name)
	}
	return value, nil
}

// nomad-pack's: a list as HCL has it.
func stringList(items []interface{}) string {
	quoted := []string{}
	for _, item := range items {
		quoted = append(quoted, fmt.Sprintf("%q", item))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// In blocks, as Helm's own: what stands at a place where only one line fits must not pass here.
func yaml(value interface{}, depth int) string {
	pad := strings.Repeat("  ", depth)
	switch it := value.(type) {
	case map[string]interface{}:
		if len(it) == 0 {
			return pad + "{}\n"
		}
		keys := []string{}
		for key := range it {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		text := ""
		for _, key := range keys {
			text += pad + strconv.Quote(key) + ":" + below(it[key], depth)
		}
		return text
	case []interface{}:
		if len(it) == 0 {
			return pad + "[]\n"
		}
		text := ""
		for _, item := range it {
			// An item's first line stands behind its dash.
			text += pad + "- " + strings.TrimPrefix(yaml(item, depth+1), pad+"  ")
		}
		return text
	}
	scalar, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return pad + string(scalar) + "\n"
}

// A value behind its key: on the same line, or below it. The items of a list stand as far out as the key.
func below(value interface{}, depth int) string {
	switch it := value.(type) {
	case map[string]interface{}:
		if len(it) > 0 {
			return "\n" + yaml(it, depth+1)
		}
	case []interface{}:
		if len(it) > 0 {
			return "\n" + yaml(it, depth)
		}
	}
	return " " + strings.TrimLeft(yaml(value, depth), " ")
}
