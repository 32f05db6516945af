"""What is read and written: alphabets, FASTA, count matrices, designs."""

import csv
import io
import itertools
import math

import pytest
import torch

from fkdiff.sequences.alphabet import Alphabet, one_hot, padded
from fkdiff.sequences.designs import Designs, diversity, edit_distances, nearest
from fkdiff.sequences.fasta import FastaError, fasta_text, read_fasta
from fkdiff.sequences.motifs import Motif, read_jaspar

DNA = Alphabet.named("dna")

JASPAR = """>MA0108.1 TBP
A  [ 61  16 352 ]
C  [145  46   0 ]
G  [152  18   2 ]
T  [ 31 309  35 ]

>MA0002.1 plain
0 1
2 0
0 0
1 3
"""


def fasta(tmp_path, text):
    file = tmp_path / "data.fasta"
    file.write_text(text)
    return file


def test_fasta_reads_wrapped_lines_small_letters_and_classes(tmp_path):
    file = fasta(tmp_path, ">one class=tata more\nacg\nT\n\n>two\nAAAA\n>\nCC\n")
    first, second, third = read_fasta(file, DNA)
    assert (first.name, first.sequence, first.label) == ("one", "ACGT", "tata")
    assert (second.label, third.name) == (None, "sequence3")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds no sequences"),
        ("\n\n", "holds no sequences"),
        ("ACGT\n", "line 1: a header"),
        (">a\n>b\nACGT\n", "line 1: 'a' has no sequence"),
        (">a\nACGT\nACZT\n", "line 3, column 3: 'Z' is no letter of ACGT"),
        (">a\nAC GT\n", "line 2, column 3: ' ' is no letter"),
    ],
)
def test_fasta_faults_tell_their_place(tmp_path, text, words):
    with pytest.raises(FastaError, match=words):
        read_fasta(fasta(tmp_path, text), DNA)


def test_fasta_round_trip(tmp_path):
    text = fasta_text([("d1", {"amp": 0.123456, "note": "a b"}, "ACGT" * 30)])
    assert text.startswith(">d1 amp=0.123 note=a_b\n")
    assert read_fasta(fasta(tmp_path, text), DNA)[0].sequence == "ACGT" * 30


def test_alphabets_from_a_file_and_bad_ones(tmp_path):
    file = tmp_path / "letters.txt"
    file.write_text("a b\nC\n")
    assert Alphabet.named(file).letters == "abC"
    for letters, words in (("A", "at least two"), ("AA", "'A' twice"), ("A-", "no '>' or '-'")):
        with pytest.raises(ValueError, match=words):
            Alphabet(letters)
    with pytest.raises(ValueError, match="one of protein, dna, rna or a text file"):
        Alphabet.named(tmp_path / "absent")
    with pytest.raises(ValueError, match="got 'Z' at 2"):
        DNA.encode("AZ")


def test_motifs_read_both_forms(tmp_path):
    file = tmp_path / "m.jaspar"
    file.write_text(JASPAR)
    tbp, plain = read_jaspar(file)
    assert (tbp.name, tuple(tbp.counts.shape)) == ("TBP", (3, 4))
    assert tbp.counts[1].tolist() == [16, 46, 18, 309]
    assert plain.counts[1].tolist() == [1, 0, 0, 3]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds no motif"),
        (">M a\nA [1 2]\nC [1 2]\nG [1 2]\n", "four rows"),
        (">M a\nA [1 2]\nC [1 2]\nG [1 2]\nT [1]\n", "equal length"),
        (">M a\nA [1 x]\nC [1 2]\nG [1 2]\nT [1 2]\n", "holds no counts"),
        (">M a\nA [1 0]\nC [1 0]\nG [1 0]\nT [1 0]\n", "one positive at each position"),
        (">M a\nA [-1]\nC [1]\nG [1]\nT [1]\n", "must not be negative"),
    ],
)
def test_motif_faults_are_told(tmp_path, text, words):
    file = tmp_path / "m.jaspar"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_jaspar(file)


def test_motif_is_the_log_of_the_mixture_over_places():
    counts = torch.tensor([[9.0, 1, 0, 0], [0, 5, 5, 0], [2, 2, 2, 4]])
    motif = Motif("m", counts, both_strands=True)
    q, total = 0.25, counts.sum(1, keepdim=True) + 1
    p = (counts + q) / total
    complement = {0: 3, 1: 2, 2: 1, 3: 0}

    def brute(tokens):
        values = []
        for strand in (tokens, [complement[t] for t in reversed(tokens)]):
            for s in range(len(tokens) - 2):
                values.append(math.prod(float(p[j, strand[s + j]]) / q for j in range(3)))
        return math.log(sum(values) / len(values))

    rows = [list(t) for t in itertools.islice(itertools.product(range(4), repeat=5), 0, 900, 41)]
    rows += [[0, 1, 3], [1, 2, 3, 0]]
    ours = motif(one_hot(padded([torch.tensor(r) for r in rows]), 4))
    assert ours.tolist() == pytest.approx([brute(r) for r in rows], abs=1e-5)
    assert motif(one_hot(torch.tensor([[0, 1]]), 4)).tolist() == [-math.inf]
    short = motif(one_hot(padded([torch.tensor([0, 1]), torch.tensor([0, 1, 3])]), 4))
    assert short[0] == -math.inf and short[1] > 0


def test_edit_distances_are_those_of_the_textbook():
    def naive(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(naive(a[1:], b) + 1, naive(a, b[1:]) + 1, naive(a[1:], b[1:]) + (a[0] != b[0]))

    texts = ["", "A", "ACGT", "CGTA", "GATTAC", "AGGTC"]
    ours = edit_distances(texts, texts)
    assert ours.tolist() == [[naive(a, b) for b in texts] for a in texts]
    assert nearest(["GATT"], ["GAT", "AAAA"]).tolist() == [0.25]
    assert diversity(["AC", "AC"]) == 0 and diversity(["AA", "CC"]) == 1


def test_designs_tell_doubles_and_novelty():
    designs = Designs(["ACG", "ACG", "TTT"], {"gc": [0.5, 0.5, 0.25]}, ["TTT", "CCC"])
    rows = list(csv.DictReader(io.StringIO(designs.csv())))
    assert [row["duplicate"] for row in rows] == ["no", "yes", "no"]
    assert [row["known"] for row in rows] == ["no", "no", "yes"]
    assert designs.fasta().splitlines()[2] == ">design2 gc=0.5 duplicate=yes"
    summary = designs.summary()
    assert (summary["duplicates"], summary["in training set"]) == (1, 1)
    assert summary["mean gc"] == pytest.approx(1.25 / 3, abs=1e-3)
