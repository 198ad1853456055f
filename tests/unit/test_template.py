"""Templates and values as text in files; tests/integration/test_packer_run.py asks Packer whether it agrees."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.errors import ExitCode, InputError
from builder.image import constraint, hcl, template

BUILD = """
source "null" "bootstrap" {
  communicator = "none"
}
build {
  sources = ["source.null.bootstrap"]
}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "templates"
    path.mkdir()
    return path


def inspect(folder: Path, text: str) -> template.Template:
    (folder / "a.pkr.hcl").write_text(text)
    return template.inspect(folder)


def problems(caught: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [str(problem) for problem in caught.value.problems]


class TestInspect:
    def test_variables(self, folder):
        found = inspect(
            folder,
            """# A comment

variable "full" {
  type        = map(object({ size = number, tags = list(string) }))
  default     = { a = { size = 1.5, tags = ["x"] } }
  description = "What it is, \\"quoted\\"."
  sensitive   = true
  validation {
    condition     = length(var.full) > 0
    error_message = "Not empty."
  }
}

variable "needed" {
  type = string
}
variable "bare" {}
""",
        )
        assert list(found.variables.values()) == [
            template.Variable(
                name="full",
                type="map(object({ size = number, tags = list(string) }))",
                default={"a": {"size": 1.5, "tags": ["x"]}},
                description='What it is, "quoted".',
                sensitive=True,
                required=False,
                where=f"{folder}/a.pkr.hcl:3",
            ),
            template.Variable("needed", "string", None, "", False, True, f"{folder}/a.pkr.hcl:14"),
            template.Variable("bare", "any", None, "", False, True, f"{folder}/a.pkr.hcl:17"),
        ]

    @pytest.mark.parametrize(
        ("default", "kind", "value"),
        [
            ('"text"', "string", "text"),
            ("5", "number", 5),
            ("1e3", "number", 1000),
            ("-0.25", "number", -0.25),
            ("false", "bool", False),
            ("null", "any", None),
            ('["a", 1]', "tuple([string, number])", ["a", 1]),
            ("[]", "tuple([])", []),
            ('{ a = true, "b c" = "d" }', "object({ a = bool, b c = string })", {"a": True, "b c": "d"}),
            ("{}", "object({})", {}),
            ("<<EOT\none\n  two\nEOT", "string", "one\n  two\n"),
            ("<<-EOT\n    one\n      two\n\n    EOT", "string", "one\n  two\n\n"),
            ('"\\t\\u00e9\\\\ $${x} %%{y}"', "string", "\té\\ ${x} %{y}"),
            ('env("HOME")', "any", '${env("HOME")}'),
            ('"${env("HOME")}/x"', "any", '${"${env("HOME")}/x"}'),
        ],
    )
    def test_a_variable_without_a_type_has_that_of_its_default(self, folder, default, kind, value):
        found = inspect(folder, f'variable "x" {{\n  default = {default}\n}}\n').variables["x"]
        assert (found.type, found.default, found.required) == (kind, value, False)

    def test_a_default_is_converted_to_the_declared_type(self, folder):
        found = inspect(folder, 'variable "x" {\n  type = list(string)\n  default = [1, true, "a"]\n}\n')
        assert found.variables["x"].default == ["1", "true", "a"]

    def test_the_older_way_to_declare(self, folder):
        found = inspect(folder, 'variables {\n  a = "x"\n  b = 3\n}\n').variables
        assert [(each.name, each.type, each.default, each.where[-1]) for each in found.values()] == [
            ("a", "string", "x", "2"),
            ("b", "number", 3, "3"),
        ]

    def test_files_are_read_as_packer_reads_them(self, folder):
        """By name, *.pkr.hcl only, and not below the folder."""
        (folder / "b.pkr.hcl").write_text('variable "second" {}\n')
        (folder / "a.pkr.hcl").write_text('variable "first" {}\n')
        (folder / "notes.hcl").write_text("not even HCL {{{")
        (folder / "values.pkrvars.hcl").write_text('first = "x"\n')
        (folder / "plugins").mkdir()
        (folder / "plugins" / "plugins.pkr.hcl").write_text('variable "third" {}\n')
        (folder / "folder.pkr.hcl").mkdir()
        assert list(template.inspect(folder).variables) == ["first", "second"]

    @pytest.mark.parametrize(
        ("build", "sources"),
        [
            ('sources = ["source.null.a", "source.null.b"]', ("null.a", "null.b")),
            ('sources = ["null.b"]', ("null.b",)),
            ("sources = []", ()),
            ('source "source.null.a" {\n}', ("null.a",)),
            ('source "null.a" {\n  name = "other"\n}', ("null.other",)),
            ('sources = ["null.b"]\n  source "null.a" {\n  }', ("null.b", "null.a")),
        ],
    )
    def test_sources_are_those_that_a_build_uses(self, folder, build, sources):
        declared = "".join(f'source "null" "{name}" {{\n}}\n' for name in "abc")
        assert inspect(folder, f"{declared}build {{\n  {build}\n}}\n").sources == sources

    def test_the_templates_of_this_project(self):
        found = template.inspect(Path(__file__).parents[2] / "packer")
        assert "null.bootstrap" in found.sources
        assert {"release", "arch", "version"} <= set(found.variables)
        assert all(variable.description for variable in found.variables.values())


class TestInspectFindsWhatIsWrong:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("variable", "a.pkr.hcl:1: the text ends too early (is a brace, a bracket or a quote not closed?)"),
            ('variable "a" {\n  type = \n}\n', "a.pkr.hcl:2: the line ends too early"),
            ('variable "a" {\n  type = string\n', "a.pkr.hcl:3: the text ends too early"),
            ('x = "a\n', "a.pkr.hcl:2: the text ends too early"),
            ("\n\n?", "a.pkr.hcl:3: unexpected '?'"),
            (
                'variable "a" {}\nvariable "a" {}\n',
                "a.pkr.hcl:2: variable 'a' is declared twice (first in {}/a.pkr.hcl:1)",
            ),
            ('variable "a" {}\nvariables {\n  a = 1\n}\n', "a.pkr.hcl:3: variable 'a' is declared twice"),
            (
                'variable "a" {\n  default = 1\n  default = 2\n}',
                "a.pkr.hcl:3: 'default' is set twice; the first time in line 2",
            ),
            ("variable {}\n", 'a.pkr.hcl:1: a "variable" block takes 1 names, not 0'),
            ('variable "a" {\n  type = strnig\n}', "a.pkr.hcl:2: not a type: string, number"),
            ('variable "a" {\n  type = "string"\n}', "a.pkr.hcl:2: not a type: string, number"),
            ('variable "a" {\n  type = list\n}', "a.pkr.hcl:2: not a type: string, number"),
            (
                'variable "a" {\n  type = number\n  default = "x"\n}',
                'a.pkr.hcl:3: the default: expected number, got the string "x"',
            ),
            ('variable "a" {\n  description = var.b\n}', "a.pkr.hcl:2: not a constant"),
            ('variable "a" {\n  default = 1e999\n}', "a.pkr.hcl:2: the number 1e999 has too many digits"),
            ('source "null" {}\n', 'a.pkr.hcl:1: a "source" block takes 2 names, not 1'),
            (
                'source "null" "a" {}\nsource "null" "a" {}\n',
                "a.pkr.hcl:2: source 'null.a' is declared twice (first in {}/a.pkr.hcl:1)",
            ),
            ('build {\n  sources = ["null.a"]\n}\n', "a.pkr.hcl:2: source 'null.a' is not declared (there is: none)"),
            ('build {\n  sources = ["a"]\n}\n', 'a.pkr.hcl:2: a source is named "source.type.name"'),
            ("build {\n  sources = [source.null.a]\n}\n", "a.pkr.hcl:2: not a constant"),
        ],
    )
    def test_with_file_and_line(self, folder, text, told):
        with pytest.raises(InputError) as caught:
            inspect(folder, text)
        assert any(problem.startswith(f"{folder}/{told.format(folder)}") for problem in problems(caught)), problems(
            caught
        )
        assert caught.value.exit_code is ExitCode.INPUT

    def test_everything_at_once(self, folder):
        (folder / "a.pkr.hcl").write_text('variable "a" {\n  type = nothing\n}\nvariable "b" {\n  default = f(\n}\n')
        (folder / "b.pkr.hcl").write_bytes(b"\xff\xfe")
        (folder / "c.pkr.hcl").write_text('build {\n  sources = ["null.a", "null.b"]\n}\n')
        (folder / "d.pkr.json").write_text("{}")
        (folder / "e.pkr.hcl").symlink_to("nowhere")
        with pytest.raises(InputError) as caught:
            template.inspect(folder)
        assert [problem.removeprefix(f"{folder}/") for problem in problems(caught)] == [
            "a.pkr.hcl:6: unexpected '}'",
            "b.pkr.hcl: not text in UTF-8",
            "e.pkr.hcl: cannot be read: No such file or directory",
            "d.pkr.json: a template in JSON (write it as HCL, in a file *.pkr.hcl)",
            "c.pkr.hcl:2: source 'null.a' is not declared (there is: none)",
            "c.pkr.hcl:2: source 'null.b' is not declared (there is: none)",
        ]

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere: no such folder"):
            template.inspect(tmp_path / "nowhere")

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="file: no such folder"):
            template.inspect(tmp_path / "file")

    def test_nothing_in_it(self, folder):
        with pytest.raises(InputError, match=r"no Packer templates \(\*\.pkr\.hcl\) in this folder"):
            template.inspect(folder)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(alphabet=st.sampled_from('ab1 =\n"{}[]()$%\\,.#/*<-E\ufeffé\x00'), max_size=40))
    @example(text="x = " + "[" * 3000)
    @example(text="x = " + "(" * 2000 + "1" + ")" * 2000)
    @example(text='variable "a" {\n default = ' + "[" * 3000 + "]" * 3000 + "\n}")
    @example(text='variable "a" {\n default = ' + "9" * 10000 + "\n}")
    @example(text="variables {\n a = <<E\n")
    @example(text="variables {\n a = <<E\nE\n}")
    @example(text='variable "${a}" {}')
    def test_any_text_is_read_or_refused(self, folder, text):
        (folder / "a.pkr.hcl").write_text(text)
        try:
            template.inspect(folder)
        except InputError as error:
            refused = error.problems
            assert refused


VARIABLES = """
variable "name" {
  type    = string
  default = "x"
}
variable "size" {
  type    = number
  default = 1
}
variable "flag" {
  type    = bool
  default = true
}
variable "words" {
  type    = list(string)
  default = []
}
variable "ports" {
  type    = map(number)
  default = {}
}
variable "disk" {
  type    = object({ size = number, name = string })
  default = { size = 1, name = "a" }
}
variable "secret" {
  type      = number
  default   = 0
  sensitive = true
}
"""


@pytest.fixture
def known(folder) -> template.Template:
    return inspect(folder, VARIABLES)


class TestResolve:
    def test_nothing_given(self, known):
        assert template.resolve(known) == {}

    @pytest.mark.parametrize(
        ("assignment", "value"),
        [
            ("name=a=b", "a=b"),
            ("name=", ""),
            ('name="kept"', '"kept"'),
            ("name=${kept}", "${kept}"),
            ("size=12", 12),
            ("size=1.25", 1.25),
            ("size=2.0", 2),
            ("flag=false", False),
            ('words=["a", 1, true]', ["a", "1", "true"]),
            ("words=[0.50]", ["0.5"]),
            ('ports={http = 80, "https" = "443"}', {"http": 80, "https": 443}),
            ('disk={size = "8", name = 5, more = 1}', {"size": 8, "name": "5"}),
            ("disk=null", None),
        ],
    )
    def test_text_becomes_a_typed_value(self, known, assignment, value):
        found = template.resolve(known, assignments=[assignment])
        assert found == {assignment.partition("=")[0]: value}
        assert type(found[assignment.partition("=")[0]]) is type(value)

    def test_later_wins(self, known, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("PKR_VAR_name", "environment")
        monkeypatch.setenv("PKR_VAR_nobody_declared_this", "ignored")
        assert template.resolve(known) == {"name": "environment"}
        (folder / "z.auto.pkrvars.hcl").write_text('name = "auto"\n')
        assert template.resolve(known) == {"name": "auto"}
        (folder / "a.auto.pkrvars.json").write_text('{"name": "auto json", "//": "a comment"}')
        assert template.resolve(known) == {"name": "auto json"}
        first, second = tmp_path / "1.json", tmp_path / "2.pkrvars.hcl"
        first.write_text('{"name": "first", "size": 1}')
        second.write_text('name = "second" # why\n')
        assert template.resolve(known, files=[first, second]) == {"name": "second", "size": 1}
        assert template.resolve(known, files=[second, first]) == {"name": "first", "size": 1}
        given = {"files": [first, second], "assignments": ["name=third", "name=fourth"]}
        assert template.resolve(known, **given) == {"name": "fourth", "size": 1}
        assert template.resolve(known, **given, overrides={"name": "fifth"}) == {"name": "fifth", "size": 1}

    def test_in_the_order_of_the_template(self, known):
        assert list(template.resolve(known, assignments=["flag=true", "name=a"])) == ["name", "flag"]

    def test_overrides_are_plain_values(self, known, tmp_path):
        overrides = {"name": tmp_path, "size": 1.5, "flag": True, "words": ("a", 2), "ports": {"http": 80}}
        assert template.resolve(known, overrides=overrides) == {
            **overrides,
            "name": str(tmp_path),
            "words": ["a", "2"],
        }

    def test_a_file_of_values_in_hcl(self, known, tmp_path):
        path = tmp_path / "v.pkrvars.hcl"
        path.write_text(
            'name = <<EOT\nlines\nEOT\nwords = [\n  "a", # first\n  "b",\n]\ndisk = { size : 1, "name" : "n" }\n'
        )
        assert template.resolve(known, files=[path]) == {
            "name": "lines\n",
            "words": ["a", "b"],
            "disk": {"size": 1, "name": "n"},
        }


class TestResolveFindsWhatIsWrong:
    @pytest.mark.parametrize(
        ("assignment", "told"),
        [
            ("nmae=x", "--var nmae: no such variable (did you mean name?)"),
            ("something=x", "--var something: no such variable (--list-vars shows which there are)"),
            ("name", "--var name: no value (it is written --var name=value)"),
            ("=x", "--var =x: no value (it is written --var name=value)"),
            ("", "--var : no value (it is written --var name=value)"),
            ("size=big", '--var size: expected number, got the string "big"'),
            ("size=", '--var size: expected number, got the string ""'),
            ("size=" + "9" * 400, f'--var size: expected number, got the string "{"9" * 57}…"'),
            (
                "flag=yes",
                "--var flag: expected bool, got yes (it is written true or false)",
            ),
            ("flag=1", "--var flag: expected bool, got the number 1"),
            (
                "words=a",
                '--var words: expected list(string), got a (it is written ["value", "value"])',
            ),
            ("words={}", "--var words: expected list(string), got an empty object"),
            ("words=[[]]", "--var words: expected string at [0], got a list of 0"),
            (
                "words=[",
                '--var words: expected list(string), got [ (it is written ["value", "value"])',
            ),
            ("words=[] x=[]", '--var words: expected list(string), got [] x=[] (it is written ["value", "value"])'),
            ('ports={http="x"}', '--var ports: expected number at .http, got the string "x"'),
            ("ports=[1]", "--var ports: expected map(number), got a list of 1"),
            ("disk={size=1}", "--var disk: expected string at .name, got nothing"),
            ("secret=hunter2", "--var secret: expected number"),
            ("name=\udcff", "--var name: not text in UTF-8"),
        ],
    )
    def test_on_the_command_line(self, known, assignment, told):
        with pytest.raises(InputError) as caught:
            template.resolve(known, assignments=[assignment])
        assert problems(caught) == [told]

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("v.pkrvars.hcl", "name = \n", "v.pkrvars.hcl:1: the line ends too early"),
            ("v.pkrvars.hcl", '\n\nsize = "x"\n', 'v.pkrvars.hcl:3: size: expected number, got the string "x"'),
            (
                "v.pkrvars.hcl",
                "name = upper(1)\n",
                "v.pkrvars.hcl:1: not a constant: functions and variables cannot be used here",
            ),
            (
                "v.pkrvars.hcl",
                'variable "name" {}\n',
                'v.pkrvars.hcl:1: a "variable" block in a file of values, which are written name = value',
            ),
            ("v.pkrvars.hcl", "sise = 1\n", "v.pkrvars.hcl:1: sise: no such variable (did you mean size?)"),
            ("v.json", "{", "v.json:1: not JSON: Expecting property name enclosed in double quotes"),
            ("v.json", '{\n"size": x}', "v.json:2: not JSON: Expecting value"),
            ("v.json", "[]", 'v.json:1: not an object {"name": value, …}'),
            ("v.json", '{"size": NaN}', "v.json: 'NaN' is not a number"),
            ("v.json", '{"size": 1, "size": 2}', "v.json: 'size' is set twice"),
            ("v.json", '{"size": ' + "9" * 5000 + "}", f"v.json: the number {'9' * 40} has too many digits"),
            ("v.json", '{"words": ' + "[" * 100_000, "v.json: nested too deeply"),
            ("v.json", '{"secret": "hunter2"}', "v.json: secret: expected number"),
            (
                "v.yaml",
                "size: 1",
                "v.yaml: a file of variables is HCL or JSON (call it *.pkrvars.hcl or *.pkrvars.json)",
            ),
        ],
    )
    def test_in_a_file(self, known, tmp_path, name, text, told):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            template.resolve(known, files=[tmp_path / name])
        assert problems(caught) == [f"{tmp_path}/{told}"]

    def test_a_file_that_is_not_there(self, known, tmp_path):
        with pytest.raises(InputError) as caught:
            template.resolve(known, files=[tmp_path / "v.json"])
        assert problems(caught) == [f"{tmp_path}/v.json: cannot be read: No such file or directory"]

    def test_in_the_environment(self, known, monkeypatch):
        monkeypatch.setenv("PKR_VAR_size", "big")
        with pytest.raises(InputError) as caught:
            template.resolve(known)
        assert problems(caught) == ['PKR_VAR_size in the environment: expected number, got the string "big"']

    def test_in_an_override(self, known):
        with pytest.raises(InputError) as caught:
            template.resolve(known, overrides={"size": "big", "release": "trixie"})
        assert problems(caught) == [
            'size: expected number, got the string "big"',
            "release: no such variable (--list-vars shows which there are)",
        ]

    def test_everything_at_once(self, folder, tmp_path):
        known = inspect(
            folder,
            VARIABLES + 'variable "key" {\n  description = "The key to use"\n}\nvariable "n" {\n  type = number\n}',
        )
        (tmp_path / "v.json").write_text('{"size": true}')
        with pytest.raises(InputError) as caught:
            template.resolve(known, assignments=["nam=x", "n=x"], files=[tmp_path / "v.json", tmp_path / "w.json"])
        assert problems(caught) == [
            f"{tmp_path}/v.json: size: expected number, got the boolean true",
            f"{tmp_path}/w.json: cannot be read: No such file or directory",
            "--var nam: no such variable (did you mean name?)",
            '--var n: expected number, got the string "x"',
            "--var key: this variable needs a value: The key to use",
        ]

    def test_a_secret_is_never_told(self, known, tmp_path, monkeypatch):
        monkeypatch.setenv("PKR_VAR_secret", "hunter2")
        (tmp_path / "v.pkrvars.hcl").write_text('secret = "hunter2"\n')
        with pytest.raises(InputError) as caught:
            template.resolve(
                known,
                assignments=["secret=hunter2"],
                files=[tmp_path / "v.pkrvars.hcl"],
                overrides={"secret": "hunter2"},
            )
        assert len(problems(caught)) == 4
        assert "hunter2" not in str(caught.value) + str(problems(caught))

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        name=st.sampled_from(["name", "size", "flag", "words", "ports", "disk"]),
        text=st.text(max_size=30) | st.text(alphabet=st.sampled_from('a1 =\n"{}[]()$\\,.#/*<-E!'), max_size=30),
    )
    @example(name="words", text="[" * 3000)
    @example(name="words", text="[" * 3000 + "]" * 3000)
    @example(name="words", text="1\nother = 2")
    @example(name="size", text="1e999999999")
    @example(name="size", text="٣")
    def test_any_text_has_a_value_or_is_refused(self, known, name, text):
        try:
            values = template.resolve(known, assignments=[f"{name}={text}"])
        except InputError as error:
            refused = error.problems
            assert refused
        else:
            assert list(values) == [name]
            json.dumps(values)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        suffix=st.sampled_from([".pkrvars.hcl", ".json"]),
        data=st.binary(max_size=40) | st.text(alphabet='name=\n"{}[]:,1.e', max_size=40).map(str.encode),
    )
    def test_any_file_has_values_or_is_refused(self, known, tmp_path, suffix, data):
        path = tmp_path / f"v{suffix}"
        path.write_bytes(data)
        try:
            template.resolve(known, files=[path])
        except InputError as error:
            refused = error.problems
            assert refused


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class TestValues:
    @settings(deadline=None)
    @given(value=JSON)
    def test_any_value_is_of_the_type_it_has(self, value):
        """And the type's own text reads back as the same type, unless it names keys that are no words."""
        kind = constraint.infer(value)
        assert constraint.convert(value, kind) == value
        if '"' not in str(kind) and all(character.isascii() for character in str(kind)):
            try:
                node = hcl.expression(str(kind))
            except hcl.HclError:
                return
            assert str(constraint.read(node)) == str(kind)

    @settings(deadline=None)
    @given(value=JSON)
    def test_json_is_hcl(self, value):
        """HCL's literals contain JSON's, but for "${", "%{" and some escapes that a JSON writer need not use."""
        text = json.dumps(value, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
        if any(escape in text for escape in ("\\u", "\\b", "\\f", "\\/")) or not text.isprintable():
            return
        assert hcl.constant(hcl.expression(text)) == value

    @pytest.mark.parametrize(
        ("text", "converted"),
        [
            ("set(string)", ["1", "a"]),
            ("list(string)", ["1", "a", "1"]),
            ("tuple([string, string, number])", ["1", "a", 1]),
        ],
    )
    def test_collections(self, text, converted):
        assert constraint.convert([1, "a", "1"], constraint.read(hcl.expression(text))) == converted

    @pytest.mark.parametrize("text", ["any", "list(any)", "object({ a = optional(string) })", "map(object({}))"])
    def test_types_read_back(self, text):
        assert str(constraint.read(hcl.expression(text))) == text.replace("optional(string)", "any")


class TestDescribe:
    def test_rows(self, folder):
        known = inspect(
            folder,
            'variable "b" {\n  type = list(string)\n  default = ["x"]\n  description = "Words."\n}\n'
            'variable "a" {\n  sensitive = true\n  default = "hunter2"\n}\n',
        )
        rows = template.describe(known)
        assert rows == [
            {"name": "a", "type": "string", "default": None, "required": False, "sensitive": True, "description": ""},
            {
                "name": "b",
                "type": "list(string)",
                "default": ["x"],
                "required": False,
                "sensitive": False,
                "description": "Words.",
            },
        ]
        assert json.loads(json.dumps(rows)) == rows

    def test_secrets(self, folder):
        known = inspect(
            folder,
            'variable "a" {\n  sensitive = true\n  default = "default"\n}\n'
            'variable "b" {\n  sensitive = true\n  default = { x = ["nested"], y = "" }\n}\n'
            'variable "c" {\n  default = "public"\n}\n',
        )
        assert template.secrets(known, {}) == ("default", "nested")
        assert template.secrets(known, {"a": "given", "c": "also public"}) == ("nested", "given")


class TestVarFile:
    def test_only_its_owner_reads_it(self, tmp_path):
        path = tmp_path / "v.pkrvars.json"
        old = os.umask(0)
        try:
            template.write_var_file({"a": "ünï", "b": [1.5, None]}, path)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_text()) == {"a": "ünï", "b": [1.5, None]}

    def test_what_was_there_does_not_keep_its_mode(self, tmp_path):
        path = tmp_path / "v.pkrvars.json"
        path.write_text("old")
        path.chmod(0o644)
        template.write_var_file({}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_link_is_replaced_and_not_followed(self, tmp_path):
        (tmp_path / "target").write_text("untouched")
        (tmp_path / "v.pkrvars.json").symlink_to("target")
        template.write_var_file({}, tmp_path / "v.pkrvars.json")
        assert (tmp_path / "target").read_text() == "untouched"

    def test_nothing_half_written_stays(self, tmp_path):
        path = tmp_path / "v.pkrvars.json"
        with pytest.raises(TypeError):
            template.write_var_file({"a": 1, "b": object()}, path)
        assert not path.exists()
