// Renders one template as consul-template does: Go's own text/template, with the functions that the shipped templates use.
//
// consul-template executes a template again and again, until every key that it asked for was answered; a key that does not
// exist is never answered (`key` is a blocking query that waits for it), and what waits is not written. So of one execution,
// "which keys were missing" is all there is to know.
//
// Reads the store, {key: value}, from stdin. Writes {"read": [...], "missing": [...], "text": "..."} to stdout.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"text/template"
)

type result struct {
	Read    []string `json:"read"`
	Missing []string `json:"missing"`
	Text    string   `json:"text"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var store map[string]string
	if err := json.NewDecoder(os.Stdin).Decode(&store); err != nil {
		return err
	}
	done := result{Read: []string{}, Missing: []string{}}
	parsed, err := template.New(path).Funcs(functions(store, &done)).Parse(string(source))
	if err != nil {
		return err
	}
	var text bytes.Buffer
	// As consul-template: without any data, and what a map does not hold is no error.
	if err := parsed.Execute(&text, nil); err != nil {
		return err
	}
	done.Text = text.String()
	return json.NewEncoder(os.Stdout).Encode(done)
}

func functions(store map[string]string, done *result) template.FuncMap {
	return template.FuncMap{
		"key": func(name string) string {
			done.Read = append(done.Read, name)
			value, there := store[name]
			if !there {
				done.Missing = append(done.Missing, name)
			}
			return value
		},
		// Of a key that was not answered yet: an empty map.
		"parseJSON": func(text string) (interface{}, error) {
			if text == "" {
				return map[string]interface{}{}, nil
			}
			var value interface{}
			err := json.Unmarshal([]byte(text), &value)
			return value, err
		},
		"regexReplaceAll": func(expression, replacement, text string) (string, error) {
			compiled, err := regexp.Compile(expression)
			if err != nil {
				return "", err
			}
			return compiled.ReplaceAllString(text, replacement), nil
		},
	}
}
